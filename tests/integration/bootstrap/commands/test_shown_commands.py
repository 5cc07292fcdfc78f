"""Every `fab` and `pulumi` command that a page shows, given to the real program.

No cluster is reached: `fab` reads the words and stops at an inventory that is not there, and in
the place of `pulumi up` the program runs under Pulumi's mocks.
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

import fabfile
from infra.config import settings
from tests.infra_plans import BASE, KEY, planned

CHECKOUT = Path(__file__).parents[4]
PAGES = [CHECKOUT / "README.md", *sorted((CHECKOUT / "docs").glob("*.md"))]
OF_A_STACK = {"destroy", "preflight"}
"""They ask `pulumi` for the selected stack and take no --inventory."""
STOPS = {
    "destroy": "error: There is no `pulumi` on the PATH",
    "preflight": "error: pulumi is not on the PATH",
    "forget-host": "No host key is pinned",
}
FOR_A_PERSON = {"YOUR.ADDRESS/32": "203.0.113.7/32", "X": "198.51.100.0/24"}
"""What stands in commands in the place of a person's own values."""


def shown(program: str) -> list[str]:
    """What follows a program's name in backquotes and in blocks, comments cut."""
    found: dict[str, None] = {}
    for page in PAGES:
        text = page.read_text()
        lines = [*re.findall(r"`([^`\n]+)`", text), *text.splitlines()]
        for line in lines:
            match = re.match(rf"\s*{program} ([a-z].*)", re.split(r"\s+#", line)[0])
            # What is in brackets may be left out.
            if match and "..." not in line:
                found[re.sub(r" \[.*?\]", "", match[1]).strip()] = None
    return list(found)


def in_blocks(page: str) -> list[str]:
    """The lines of a page's first block that has `pulumi up` in it, with their comments."""
    blocks = re.findall(r"^```\n(.*?)^```", (CHECKOUT / page).read_text(), re.S | re.M)
    return next(block for block in blocks if "pulumi up" in block).splitlines()


FAB = [
    line for line in shown("fab") if line.partition(" ")[0] in fabfile.COMMANDS and " --" in line
]
SETTINGS = [line.split()[2:] for line in shown("pulumi") if line.startswith("config set ")]


def test_the_pages_show_commands() -> None:
    assert "train --resume" in FAB
    assert "bootstrap --inventory nodefile" in FAB
    assert ["node_count", "4"] in SETTINGS


@pytest.mark.parametrize("line", FAB)
def test_every_fab_command_reads_its_words(
    line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    name, *words = shlex.split(line)
    # Where a page says NAME, it means one that exists.
    words = ["textual_inversion" if words[:1] == ["--method"] and w == "NAME" else w for w in words]
    if name == "generate" and "--prompt" not in words:  # the page is about another flag
        words += ["--prompt", "a <dicoo>"]
    Path("NEW").write_text("hf_token\n")
    if name not in STOPS and "--inventory" not in words:
        words += ["--inventory", "nowhere.json"]
    code = fabfile.COMMANDS[name](words)
    said = "".join(capsys.readouterr())
    if "--flags" in words:
        assert (code, "--max-train-steps" in said) == (0, True)
    else:
        assert STOPS.get(name, "cannot be read (No such file") in said
        assert "did you mean" not in said


@pytest.mark.parametrize(("key", "value"), [words[:2] for words in SETTINGS if len(words) > 1])
def test_every_config_that_is_set_makes_a_cluster(
    key: str, value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".ssh").mkdir()
    (tmp_path / ".ssh" / "id.pub").write_text(KEY.read_text())
    values = {**BASE, key: FOR_A_PERSON.get(value, value)}
    if key == "monthly_budget":
        values["budget_email"] = "ana@example.com"
    if key == "idle_minutes":
        values["head_may_deallocate"] = "true"
    settings.validate(values)
    made = planned(values)
    assert made["violations"] == []
    assert (key == "node_count") == (len(made["outputs"]["nodes"]) != 3) or value == "3"


def test_up_makes_what_the_readme_says_and_destroy_leaves_nothing() -> None:
    up, *_, destroy = in_blocks("README.md")
    made = planned()
    said = re.fullmatch(r"pulumi up +# (\d+) VMs \((\w+)\).* about ([\d.]+) USD per hour .*", up)
    assert said is not None
    nodes = made["outputs"]["nodes"]
    assert (len(nodes), {node["size"] for node in nodes}) == (int(said[1]), {said[2]})
    assert f"{made['price']['per_hour']:.2f}" == said[3]
    assert re.match(r"pulumi destroy +# deletes everything", destroy)
    kept = [one["name"] for one in made["resources"] if one["protect"] or one["retain_on_delete"]]
    assert kept == []
