"""In which country is a city? README.md beside this file says how the cities were chosen.

Cities, countries and populations are from GeoNames (geonames.org), licence CC BY 4.0.
"""

from importlib.resources import files
from typing import Any

from datamodules.questions.files import FileQuestions
from datamodules.questions.sets.countries import build_country_pattern


def build_city_questions(**settings: Any) -> FileQuestions:
    """Return the questions about cities, one a row of cities.csv: columns city, country and aliases.

    The pattern finds the first country that an answer names, right or wrong.

    Args:
        **settings: of `FileQuestions`, such as `question`, `limit`, `seed`, `group` and `name`.

    Example:
        >>> dataset = build_city_questions(question="In which country is {city}?", limit=1)
        >>> dataset.name
        'cities'
    """
    path = str(files("datamodules.questions.sets") / "cities.csv")
    return FileQuestions(path=path, answer=["country", "aliases"], pattern=build_country_pattern(), **settings)
