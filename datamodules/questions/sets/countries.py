"""Names of countries, and the regular expression that finds the first of them in an answer.

English names as people write them, not official ones. Demonyms are not names: "a Nigerian city" names no country.
"""

import re

# ISO 3166 code: the name, then its aliases. Countries whose cities are asked about.
COUNTRIES: dict[str, tuple[str, ...]] = {
    "AD": ("Andorra",),
    "AE": ("United Arab Emirates", "UAE", "U.A.E."),
    "AF": ("Afghanistan",),
    "AG": ("Antigua and Barbuda", "Antigua"),
    "AL": ("Albania",),
    "AM": ("Armenia",),
    "AO": ("Angola",),
    "AR": ("Argentina",),
    "AT": ("Austria",),
    "AU": ("Australia",),
    "AZ": ("Azerbaijan",),
    "BA": ("Bosnia and Herzegovina", "Bosnia & Herzegovina", "Bosnia-Herzegovina", "Bosnia"),
    "BB": ("Barbados",),
    "BD": ("Bangladesh",),
    "BE": ("Belgium",),
    "BF": ("Burkina Faso",),
    "BG": ("Bulgaria",),
    "BH": ("Bahrain",),
    "BI": ("Burundi",),
    "BJ": ("Benin",),
    "BN": ("Brunei",),
    "BO": ("Bolivia",),
    "BR": ("Brazil",),
    "BS": ("Bahamas",),
    "BT": ("Bhutan",),
    "BW": ("Botswana",),
    "BY": ("Belarus",),
    "BZ": ("Belize",),
    "CA": ("Canada",),
    "CD": (
        "Democratic Republic of the Congo", "Democratic Republic of Congo", "DR Congo", "D.R. Congo", "DRC",
        "Congo-Kinshasa", "Congo", "Zaire",
    ),
    "CF": ("Central African Republic",),
    "CG": ("Republic of the Congo", "Republic of Congo", "Congo Republic", "Congo-Brazzaville", "Congo"),
    "CH": ("Switzerland",),
    "CI": ("Ivory Coast", "Côte d'Ivoire", "Cote d'Ivoire"),
    "CL": ("Chile",),
    "CM": ("Cameroon",),
    "CN": ("China", "PRC", "P.R.C."),
    "CO": ("Colombia",),
    "CR": ("Costa Rica",),
    "CU": ("Cuba",),
    "CV": ("Cape Verde", "Cabo Verde"),
    "CY": ("Cyprus",),
    "CZ": ("Czech Republic", "Czechia"),
    "DE": ("Germany",),
    "DJ": ("Djibouti",),
    "DK": ("Denmark",),
    "DM": ("Dominica",),
    "DO": ("Dominican Republic",),
    "DZ": ("Algeria",),
    "EC": ("Ecuador",),
    "EE": ("Estonia",),
    "EG": ("Egypt",),
    "ER": ("Eritrea",),
    "ES": ("Spain",),
    "ET": ("Ethiopia",),
    "FI": ("Finland",),
    "FJ": ("Fiji",),
    "FM": ("Micronesia",),
    "FR": ("France",),
    "GA": ("Gabon",),
    "GB": ("United Kingdom", "UK", "U.K.", "Great Britain", "Britain"),  # and one of PARTS
    "GD": ("Grenada",),
    "GE": ("Georgia",),
    "GH": ("Ghana",),
    "GM": ("Gambia",),
    "GN": ("Guinea",),
    "GQ": ("Equatorial Guinea",),
    "GR": ("Greece",),
    "GT": ("Guatemala",),
    "GW": ("Guinea-Bissau", "Guinea Bissau"),
    "GY": ("Guyana",),
    "HN": ("Honduras",),
    "HR": ("Croatia",),
    "HT": ("Haiti",),
    "HU": ("Hungary",),
    "ID": ("Indonesia",),
    "IE": ("Ireland",),
    "IL": ("Israel",),
    "IN": ("India",),
    "IQ": ("Iraq",),
    "IR": ("Iran",),
    "IS": ("Iceland",),
    "IT": ("Italy",),
    "JM": ("Jamaica",),
    "JO": ("Jordan",),
    "JP": ("Japan",),
    "KE": ("Kenya",),
    "KG": ("Kyrgyzstan", "Kyrgyz Republic"),
    "KH": ("Cambodia",),
    "KI": ("Kiribati",),
    "KM": ("Comoros",),
    "KN": ("Saint Kitts and Nevis", "St. Kitts and Nevis"),
    "KP": ("North Korea", "Democratic People's Republic of Korea", "DPRK"),
    "KR": ("South Korea", "Republic of Korea", "Korea"),
    "KW": ("Kuwait",),
    "KZ": ("Kazakhstan",),
    "LA": ("Laos", "Lao People's Democratic Republic", "Lao PDR"),
    "LB": ("Lebanon",),
    "LC": ("Saint Lucia", "St. Lucia"),
    "LI": ("Liechtenstein",),
    "LK": ("Sri Lanka",),
    "LR": ("Liberia",),
    "LS": ("Lesotho",),
    "LT": ("Lithuania",),
    "LU": ("Luxembourg",),
    "LV": ("Latvia",),
    "LY": ("Libya",),
    "MA": ("Morocco",),
    "MC": ("Monaco",),
    "MD": ("Moldova",),
    "ME": ("Montenegro",),
    "MG": ("Madagascar",),
    "MH": ("Marshall Islands",),
    "MK": ("North Macedonia", "Macedonia"),
    "ML": ("Mali",),
    "MM": ("Myanmar", "Burma"),
    "MN": ("Mongolia",),
    "MR": ("Mauritania",),
    "MT": ("Malta",),
    "MU": ("Mauritius",),
    "MV": ("Maldives",),
    "MW": ("Malawi",),
    "MX": ("Mexico", "México"),
    "MY": ("Malaysia",),
    "MZ": ("Mozambique",),
    "NA": ("Namibia",),
    "NE": ("Niger",),
    "NG": ("Nigeria",),
    "NI": ("Nicaragua",),
    "NL": ("Netherlands", "Holland"),
    "NO": ("Norway",),
    "NP": ("Nepal",),
    "NR": ("Nauru",),
    "NZ": ("New Zealand",),
    "OM": ("Oman",),
    "PA": ("Panama", "Panamá"),
    "PE": ("Peru", "Perú"),
    "PG": ("Papua New Guinea",),
    "PH": ("Philippines",),
    "PK": ("Pakistan",),
    "PL": ("Poland",),
    "PT": ("Portugal",),
    "PW": ("Palau",),
    "PY": ("Paraguay",),
    "QA": ("Qatar",),
    "RO": ("Romania",),
    "RS": ("Serbia",),
    "RU": ("Russia", "Russian Federation"),
    "RW": ("Rwanda",),
    "SA": ("Saudi Arabia", "KSA"),
    "SB": ("Solomon Islands",),
    "SC": ("Seychelles",),
    "SD": ("Sudan",),
    "SE": ("Sweden",),
    "SG": ("Singapore",),
    "SI": ("Slovenia",),
    "SK": ("Slovakia", "Slovak Republic"),
    "SL": ("Sierra Leone",),
    "SM": ("San Marino",),
    "SN": ("Senegal",),
    "SO": ("Somalia",),
    "SR": ("Suriname",),
    "SS": ("South Sudan",),
    "ST": ("Sao Tome and Principe", "São Tomé and Príncipe"),
    "SV": ("El Salvador",),
    "SY": ("Syria", "Syrian Arab Republic"),
    "SZ": ("Eswatini", "Swaziland"),
    "TD": ("Chad",),
    "TG": ("Togo",),
    "TH": ("Thailand",),
    "TJ": ("Tajikistan",),
    "TL": ("East Timor", "Timor-Leste", "Timor Leste"),
    "TM": ("Turkmenistan",),
    "TN": ("Tunisia",),
    "TO": ("Tonga",),
    "TR": ("Turkey", "Türkiye", "Turkiye"),
    "TT": ("Trinidad and Tobago", "Trinidad"),
    "TV": ("Tuvalu",),
    "TW": ("Taiwan",),
    "TZ": ("Tanzania",),
    "UA": ("Ukraine",),
    "UG": ("Uganda",),
    "US": ("United States", "United States of America", "USA", "U.S.A.", "US", "U.S.", "America"),
    "UY": ("Uruguay",),
    "UZ": ("Uzbekistan",),
    "VA": ("Vatican City", "Vatican"),
    "VC": ("Saint Vincent and the Grenadines", "St. Vincent and the Grenadines"),
    "VE": ("Venezuela",),
    "VN": ("Vietnam", "Viet Nam"),
    "VU": ("Vanuatu",),
    "WS": ("Samoa",),
    "YE": ("Yemen",),
    "ZA": ("South Africa",),
    "ZM": ("Zambia",),
    "ZW": ("Zimbabwe",),
}  # fmt: skip

# Parts of the United Kingdom by GeoNames' code: an alias for their own cities only, since Glasgow is not in England.
PARTS = {"ENG": "England", "SCT": "Scotland", "WLS": "Wales", "NIR": "Northern Ireland"}

# Named in answers like countries, but no cities of theirs are asked about: dependent territories, for which two answers
# are right; places whose country is disputed; and former states.
OTHERS = (
    "Hong Kong", "Macau", "Macao", "Puerto Rico", "Guam", "American Samoa", "Northern Mariana Islands", "Greenland",
    "Faroe Islands", "Gibraltar", "Bermuda", "Cayman Islands", "British Virgin Islands", "US Virgin Islands",
    "U.S. Virgin Islands", "Virgin Islands", "Turks and Caicos Islands", "Anguilla", "Montserrat", "Falkland Islands",
    "Saint Helena", "Isle of Man", "Jersey", "Guernsey", "Aruba", "Curaçao", "Curacao", "Sint Maarten", "Saint Martin",
    "French Guiana", "Guadeloupe", "Martinique", "Réunion", "Mayotte", "New Caledonia", "French Polynesia",
    "Cook Islands", "Netherlands Antilles", "Palestine", "Palestinian Territories", "Palestinian Territory",
    "Western Sahara", "Kosovo", "Somaliland", "Soviet Union", "USSR", "Yugoslavia", "Czechoslovakia",
)  # fmt: skip

# Where a name is not the country's: South America, the Mexico of New Mexico, the Georgia of the United States.
_NOT_AFTER = ("New", "Inner", "Lake", "River", "Gulf of", "Sea of", "Port of")
_NOT_BEFORE = ("City", "River", "Sea", "Basin", "Canal", "Delta", "State", "Strait")
_IN_STATES = r"(?!,? (?:in )?(?:the )?(?:USA?\b|U\.S\.|United States))"
_ELSEWHERE = {
    "America": r"(?<!South )(?<!North )(?<!Central )(?<!Latin )America",
    "Georgia": rf"(?<!state of )Georgia{_IN_STATES}",
    "Macedonia": r"(?<!Central )(?<!Western )(?<!Eastern )Macedonia(?!,? (?:and Thrace|(?:in )?Greece))",
    "Wales": r"(?<!South )Wales",
}


def list_names() -> list[str]:
    """List every name and alias once, longer ones first, because a regular expression tries alternatives in order.

    >>> "Norway" in list_names()
    True
    """
    every = [name for names in COUNTRIES.values() for name in names]
    return sorted({*every, *PARTS.values(), *OTHERS}, key=lambda name: (-len(name), name))


def build_country_pattern() -> str:
    """Regular expression whose first match in a text is the first country that it names, as whole words.

    >>> re.search(build_country_pattern(), "It is in New Mexico, in the United States.")[0]
    'United States'
    """
    after = "".join(rf"(?<!\b{words} )" for words in _NOT_AFTER)
    return (
        rf"(?<![\w-]){after}(?:{'|'.join(map(_build_expression, list_names()))})(?!\w|\s(?:{'|'.join(_NOT_BEFORE)})\b)"
    )


def _build_expression(name: str) -> str:
    """Regular expression of one name; blanks may be line breaks, apostrophes curly."""
    return _ELSEWHERE.get(name) or re.escape(name).replace(r"\ ", r"\s+").replace("'", "['’]")
