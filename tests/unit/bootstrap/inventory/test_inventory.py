"""Where nodes come from: outputs, nodefiles, and what is said of wrong ones."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from bootstrap.errors import UserError
from bootstrap.inventory.read_inventory import OutputNode, Outputs, read_inventory

SCHEMA = Path(__file__).parents[4] / "infra" / "inventory.schema.json"


def outputs(**changes: Any) -> dict[str, Any]:
    """Everything that the contract asks for."""
    return {
        "user": "azureuser",
        "ssh_private_key_path": "~/.ssh/id_ed25519",
        "gateway": "20.1.2.3",
        "nodes": [
            {
                "name": "xeon-0", "private_ip": "10.0.0.4", "public_ip": "20.1.2.3", "vcpus": 8,
                "size": "Standard_D8s_v5",
            },
            {"name": "xeon-1", "private_ip": "10.0.0.5", "vcpus": 8, "size": "Standard_D8s_v5"},
        ],
        "resource_group": "rg-xeon",
        "subscription_id": "00000000-0000-0000-0000-000000000000",
        "location": "westeurope",
        "ssh_command": "ssh azureuser@20.1.2.3",
        "price_per_hour_usd": 1.5,
        "price_as_of": "2026-01-01",
        "next": "fab bootstrap",
        **changes,
    }  # fmt: skip


def write(path: Path, content: object) -> str:
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return str(path)


@pytest.fixture
def pulumi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A `pulumi` on the PATH that runs whatever the test writes."""
    program = tmp_path / "bin" / "pulumi"
    program.parent.mkdir()
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    program.touch(mode=0o755)
    return program


def test_every_key_that_is_read_is_in_the_contract_and_of_its_type() -> None:
    schema = json.loads(SCHEMA.read_text())
    node = schema["$defs"]["InventoryNode"]
    assert set(Outputs.model_fields) <= set(schema["properties"])
    assert set(OutputNode.model_fields) - {"port"} <= set(node["properties"])
    # What is needed here is promised there.
    needed = {name for name, field in Outputs.model_fields.items() if field.is_required()}
    assert needed <= set(schema["required"])
    needed = {name for name, field in OutputNode.model_fields.items() if field.is_required()}
    assert needed <= set(node["required"])


def patterns(properties: dict[str, Any]) -> dict[str, str]:
    """What a text of each key must match."""
    found = {}
    for name, rules in properties.items():
        for choice in (rules, *rules.get("anyOf", ())):
            if "pattern" in choice:
                found[name] = choice["pattern"]
    return found


def test_texts_match_the_contracts_patterns() -> None:
    schema = json.loads(SCHEMA.read_text())
    promised = patterns(schema["properties"])
    assert patterns(Outputs.model_json_schema()["properties"]).items() <= promised.items()
    promised = patterns(schema["$defs"]["InventoryNode"]["properties"])
    assert patterns(OutputNode.model_json_schema()["properties"]).items() <= promised.items()


EVIL = {
    "user": "anna\n  ProxyCommand touch /tmp/x",
    "resource_group": "rg\nssh-ed25519 AAAA somebody",
    "ssh_private_key_path": "~/.ssh/id\x1b]0;title\x07",
    "price_as_of": "2026-01-01\x1b[2J",
    "nodes.0.name": "../../x",
    "nodes.0.size": "Standard\n",
}


@pytest.mark.parametrize("key", EVIL)
def test_no_text_of_an_inventory_ends_a_line(key: str, tmp_path: Path) -> None:
    content = outputs()
    within = content["nodes"][0] if key.startswith("nodes") else content
    within[key.rpartition(".")[2]] = EVIL[key]
    with pytest.raises(UserError, match=rf"- {key}: .*pattern") as raised:
        read_inventory(write(tmp_path / "cluster.json", content))
    assert str(raised.value).count("\n  - ") == 1


@pytest.mark.parametrize(
    "name", ["..", "../../x", "/etc", ".ssh", "a/b", "rg\n", "rg\0", "", "r" * 91, "rg x"]
)
def test_no_cluster_is_called_what_its_folder_cannot_be(name: str, tmp_path: Path) -> None:
    content = json.dumps(outputs(resource_group=name))
    with pytest.raises(UserError, match="resource_group: "):
        read_inventory(write(tmp_path / "cluster.json", content))


def test_every_text_of_the_contract_has_a_pattern() -> None:
    schema = json.loads(SCHEMA.read_text())
    models = [model.model_json_schema() for model in (Outputs, OutputNode)]
    for model in (*models, schema, schema["$defs"]["InventoryNode"]):
        properties = model["properties"]
        texts = {
            name
            for name, rules in properties.items()
            for choice in (rules, *rules.get("anyOf", ()))
            if choice.get("type") == "string" and choice.get("format") != "ipv4"
        }
        assert texts == set(patterns(properties))


@pytest.mark.parametrize("price", ["NaN", "Infinity", "-1"])
def test_a_price_is_a_sum(price: str, tmp_path: Path) -> None:
    content = json.dumps(outputs()).replace("1.5", price)
    with pytest.raises(UserError, match="price_per_hour_usd: "):
        read_inventory(write(tmp_path / "cluster.json", content))


@pytest.mark.parametrize("name", ["...json", "two\nlines.json", ".hidden"])
def test_a_file_that_no_cluster_can_be_called_after(name: str, home: Path) -> None:
    for text in (json.dumps(outputs(resource_group=None)), "anna@10.9.0.4\n"):
        with pytest.raises(UserError, match="rename it"):
            read_inventory(write(home / name, text))


def test_an_inventory_of_the_contracts_required_keys_alone_is_read(tmp_path: Path) -> None:
    schema = json.loads(SCHEMA.read_text())
    full = outputs()
    content = {name: full[name] for name in schema["required"]}
    wanted = schema["$defs"]["InventoryNode"]["required"]
    content["nodes"] = [{name: node[name] for name in wanted} for node in full["nodes"]]
    inventory = read_inventory(write(tmp_path / "cluster.json", content))
    assert [node.name for node in inventory.nodes] == ["xeon-0", "xeon-1"]
    assert inventory.ssh_private_key_path is None
    assert inventory.price_per_hour_usd is None


def test_a_file_of_outputs(tmp_path: Path) -> None:
    inventory = read_inventory(write(tmp_path / "cluster.json", outputs()))
    assert (inventory.kind, inventory.name, inventory.user) == ("file", "rg-xeon", "azureuser")
    assert inventory.gateway == "20.1.2.3"
    assert inventory.ssh_private_key_path == Path("~/.ssh/id_ed25519").expanduser()
    assert inventory.head.public_address == "20.1.2.3"
    (worker,) = inventory.workers
    assert (worker.address, worker.public_address, worker.vcpus) == ("10.0.0.5", None, 8)


def test_the_private_key_is_the_other_half_of_the_nodes_public_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".ssh").mkdir()
    (tmp_path / ".ssh" / "other.pub").write_text("ssh-ed25519 BBBB me")
    (tmp_path / ".ssh" / "other").touch()
    (tmp_path / ".ssh" / "azure.pub").write_text("ssh-ed25519 AAAA me@here\n")
    given = outputs(ssh_private_key_path=None, ssh_public_key="ssh-ed25519 AAAA me@there")
    file = write(tmp_path / "cluster.json", given)
    assert read_inventory(file).ssh_private_key_path is None, "the agent may hold it"
    (tmp_path / ".ssh" / "azure").touch()
    assert read_inventory(file).ssh_private_key_path == tmp_path / ".ssh" / "azure"
    named = write(tmp_path / "named.json", {**given, "ssh_private_key_path": "/keys/mine"})
    assert read_inventory(named).ssh_private_key_path == Path("/keys/mine")


def test_all_that_is_wrong_in_a_file_is_said_at_once(tmp_path: Path) -> None:
    content = outputs(user="", gateway="here")
    content["nodes"][1]["private_ip"] = "10.0.0"
    content["nodes"][0]["vcpus"] = 0
    with pytest.raises(UserError) as raised:
        read_inventory(write(tmp_path / "cluster.json", content))
    for key in ("user: ", "gateway: ", "nodes.1.private_ip: ", "nodes.0.vcpus: ", "cluster.json"):
        assert key in str(raised.value)


def test_a_node_twice_is_wrong(tmp_path: Path) -> None:
    content = outputs()
    content["nodes"].append(content["nodes"][1])
    with pytest.raises(UserError, match=r"nodes\.2\.name: xeon-1 is already at nodes\.1\.name"):
        read_inventory(write(tmp_path / "cluster.json", content))


def test_the_stacks_outputs(pulumi: Path) -> None:
    pulumi.write_text(
        f"#!/bin/sh\n[ \"$*\" = 'stack output --json' ] && echo '{json.dumps(outputs())}'"
    )
    inventory = read_inventory(None)
    assert inventory.kind == "stack"
    assert inventory.head.name == "xeon-0"


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("echo 'error: no stack selected' >&2; exit 255", "no stack selected"),
        ("echo '{}'", "pulumi up"),
        ("echo nonsense", "printed no JSON"),
    ],
)
def test_what_to_type_when_the_stack_has_nothing(pulumi: Path, script: str, said: str) -> None:
    pulumi.write_text(f"#!/bin/sh\n{script}")
    with pytest.raises(UserError, match=said):
        read_inventory("")


def test_what_to_type_without_pulumi(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match=r"no `pulumi` on the PATH.*--inventory nodefile"):
        read_inventory(None)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home folder whose ~/.ssh/config names a machine."""
    (tmp_path / ".ssh").mkdir()
    (tmp_path / ".ssh" / "config").write_text(
        "Host lab\n  HostName 10.9.0.7\n  User berta\n  Port 2200\n"
    )
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def test_a_nodefile(home: Path) -> None:
    text = "# mine\nanna@10.9.0.4:2222  # the head\n\nlab\ncarl@lab:22\n"
    inventory = read_inventory(write(home / "nodefile", text))
    assert (inventory.kind, inventory.name, inventory.gateway) == ("nodefile", "nodefile", None)
    found = [(n.name, n.user, n.address, n.port, n.ssh_host) for n in inventory.nodes]
    assert found == [
        ("10.9.0.4:2222", "anna", "10.9.0.4", 2222, "10.9.0.4"),
        ("lab", "berta", "10.9.0.7", 2200, "lab"),
        ("lab:22", "carl", "10.9.0.7", 22, "lab"),
    ]


def test_all_that_is_wrong_in_a_nodefile_is_said_with_its_line(home: Path) -> None:
    text = "anna@10.9.0.4\nwhat is this\nx:99999\n10.9.0.4:22\n"
    with pytest.raises(UserError) as raised:
        read_inventory(write(home / "nodefile", text))
    said = str(raised.value)
    assert "line 2: 'what is this'" in said
    assert "line 3: 'x:99999'" in said
    assert "line 4: '10.9.0.4:22' is the machine of line 1" in said
    assert "line 1:" not in said


def test_an_empty_nodefile(home: Path) -> None:
    with pytest.raises(UserError, match="no line that names a machine"):
        read_inventory(write(home / "nodefile", "# nothing\n"))


def test_this_machine() -> None:
    inventory = read_inventory("local")
    assert inventory.kind == "local"
    assert inventory.workers == ()


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"gone\.json cannot be read.*nodefile"):
        read_inventory(str(tmp_path / "gone.json"))
