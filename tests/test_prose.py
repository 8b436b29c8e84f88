"""The pages for people: line lengths, links, commands, and the tree of files."""

import re
import shlex

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser

from tests.support.places import ROOT

LONGEST = 120  # characters of a line
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "CHANGELOG.md",
    ROOT / "datamodules/questions/sets/README.md",
    *sorted((ROOT / "docs").glob("*.md")),
]
GROUPS = sorted(path.name for path in (ROOT / "conf").iterdir() if path.is_dir() and path.name[0] not in "._")
RUNS = ("python train.py ", "probegrid ", "torchrun ")


def name(page):
    return str(page.relative_to(ROOT))


def code_blocks(text):
    """Contents of the fenced blocks of a page, with broken lines joined."""
    return [block.replace("\\\n", " ") for block in re.findall(r"^```\w*\n(.*?)^```", text, re.M | re.S)]


def without_code(text):
    return re.sub(r"`[^`\n]*`", "", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S))


def anchors(text):
    """Anchors of a page's headings, as GitHub makes them."""
    titles = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S), re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in titles}


def commands(text):
    """Overrides of every command of a page that starts a run."""
    lines = [line for block in code_blocks(text) for line in block.splitlines()]
    lines += re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S))
    for line in lines:
        if line.startswith(RUNS) and "--config-dir" not in line and " -m datamodules" not in line:
            words = shlex.split(line, comments=True)
            start = words.index("train.py") + 1 if "train.py" in words else 1
            yield [word for word in words[start:] if word != "-m"]


def tree(text):
    """Paths of the annotated tree of CONTRIBUTING.md: files, and folders."""
    block = next(block for block in code_blocks(text) if "datamodules/" in block)
    files, folders, above = [], [], {}
    for line in filter(str.strip, block.splitlines()):
        indent, entry = len(line) - len(line.lstrip()), line.split()[0]
        parent = above.get(indent - 2, "") if indent else ""
        if entry.endswith("/"):
            above[indent] = parent + entry
            folders.append(parent + entry)
        else:
            files.append(parent + entry)
    return files, folders


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_lines_are_short(page):
    long = [i for i, line in enumerate(page.read_text("utf-8").splitlines(), 1) if len(line) > LONGEST]
    assert not long, f"{name(page)}: lines {long} have more than {LONGEST} characters; break them"


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page):
    text = page.read_text("utf-8")
    for link in re.findall(r"\]\(([^)\s]+)\)", without_code(text)):
        if re.match(r"https?:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{name(page)}: no file at {link}"
        if anchor:
            assert anchor in anchors(target.read_text("utf-8")), f"{name(page)}: no heading at {link}"


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_named_choices_exist(page):
    text = page.read_text("utf-8")
    code = "\n".join([*code_blocks(text), *re.findall(r"`([^`\n]+)`", text)])
    code = "\n".join(line for line in code.splitlines() if "--config-dir" not in line)
    for group, names in re.findall(rf"(?<![\w.@])({'|'.join(GROUPS)})=([a-z]\w*(?:[|,][a-z]\w*)*)", code):
        for choice in re.split(r"[|,]", names):
            assert choice == "null" or (ROOT / "conf" / group / f"{choice}.yaml").exists(), (
                f"{name(page)}: no conf/{group}/{choice}.yaml"
            )


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_commands_compose(page):
    for overrides in commands(page.read_text("utf-8")):
        parsed = OverridesParser.create().parse_overrides(overrides)
        swept = [one for one in parsed if one.is_sweep_override()]
        plain = [str(one.input_line) for one in parsed if not one.is_sweep_override()]
        cases = [[f"{one.get_key_element()}={value}"] for one in swept for value in one.sweep_string_iterator()]
        with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
            for case in cases or [[]]:
                compose("config", overrides=[*plain, *case])


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_modules_and_make_targets_exist(page):
    text, makefile = page.read_text("utf-8"), (ROOT / "Makefile").read_text("utf-8")
    for module in re.findall(r"python -m ((?:datamodules|probes|tests)[\w.]+)", text):
        assert (ROOT / f"{module.replace('.', '/')}.py").exists(), f"{name(page)}: no module {module}"
    for target in re.findall(r"(?:`|^)make (\w+)", text, re.M):
        assert re.search(rf"^{target}:", makefile, re.M), f"{name(page)}: no target {target} in the Makefile"


def test_readme_shows_the_check_that_ci_runs():
    assert "make test" in (ROOT / ".ci" / "run").read_text()
    assert any("make test" in block for block in code_blocks((ROOT / "README.md").read_text("utf-8")))


def test_readme_lists_every_page():
    readme = (ROOT / "README.md").read_text("utf-8")
    assert not [name(page) for page in PAGES if page.parent == ROOT / "docs" and f"]({name(page)})" not in readme]


def test_what_the_tree_names_exists():
    files, folders = tree((ROOT / "CONTRIBUTING.md").read_text("utf-8"))
    assert not [path for path in files if not (ROOT / path).is_file()]
    assert not [path for path in folders if not (ROOT / path).is_dir()]


def test_the_tree_names_every_module_and_folder():
    files, folders = tree((ROOT / "CONTRIBUTING.md").read_text("utf-8"))
    for package in ("datamodules", "probes"):
        modules = [path.relative_to(ROOT).as_posix() for path in (ROOT / package).rglob("*.py")]
        modules = [path for path in modules if not path.endswith("/__init__.py")]
        assert not sorted(set(modules) - set(files))
        assert not sorted({path.rsplit("/", 1)[0] + "/" for path in modules} - set(folders))
    assert not sorted({f"conf/{group}/" for group in GROUPS} - set(folders))


def test_where_to_add_leads_to_files_and_groups():
    readme = (ROOT / "README.md").read_text("utf-8")
    section = readme.split("## Where to add something")[1].split("\n## ")[0]
    paths = [path.replace("NAME.yaml", "") for path in re.findall(r"`((?:conf|datamodules|probes)/[^`]*)`", section)]
    assert len(paths) >= 12
    assert not [path for path in paths if not (ROOT / path).exists()]
