"""The cluster's config: defaults, refusals that say the fix, and Pulumi.yaml."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from infra.config import settings, sizes
from infra.config.config import ClusterConfig
from infra.errors import UserError
from infra.program.names import Names
from scripts import pulumi_requirements
from tests.infra_plans import BASE, KEY

CHECKOUT = Path(__file__).parents[4]


def complaint(**changes: Any) -> str:
    with pytest.raises(UserError) as raised:
        settings.validate({**BASE, **changes})
    return str(raised.value)


def test_the_defaults_are_three_d16s_v5() -> None:
    config = settings.validate(BASE)
    assert (config.node_count, config.vm_size) == (3, "Standard_D16s_v5")
    assert config.size.vcpus == 16
    assert str(config.private_ip(0)) == "10.0.0.4"


def test_every_error_is_told_at_once_with_key_value_rule_and_fix() -> None:
    message = complaint(node_count="0", vm_sise="x", admin_username="root", zone="4")
    assert "4 errors in" in message
    assert "node_count = '0'" in message
    assert "vm_sise: no such key; did you mean vm_size?" in message
    assert "admin_username = 'root': is a name that Azure reserves" in message
    assert "zone = '4'" in message


def test_a_missing_key_says_what_it_is_for() -> None:
    with pytest.raises(UserError, match=r"allowed_ssh_cidr: is required\. The only address range"):
        settings.validate({"ssh_public_key_path": str(KEY)})


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("name", "Lab_1", "must be 1 to 44 of a-z, 0-9 and -"),
        ("name", "lab-", "no - at its ends"),
        ("location", "East US", "try eastus"),
        ("node_count", "101", "less than or equal to 100"),
        ("node_count", "two", "valid integer"),
        ("vm_size", "Standard_D16as_v5", "AMD size"),
        ("vm_size", "Standard_D16ps_v5", "Arm size"),
        ("vm_size", "Standard_D2s_v5", "training needs at least 4"),
        ("vm_size", "Standard_D15s_v5", "did you mean"),
        ("vm_size", "Standard_E16s_v5", "is not one of"),
        ("vm_size", "Standard_D16s_v4", "is not one of"),
        ("vm_size", "D16s_v5", "did you mean Standard_D16s_v5?"),
        ("admin_username", "Ana Maria", "must be 1 to 32"),
        ("image", "Ubuntu2204", "publisher:offer:sku:version"),
        ("image", "Canonical:ubuntu-24_04-lts:server:latest", "not 'latest'"),
        ("image", "Canonical:ubuntu-24_04-lts:server-gen1:1.2.3", "Gen1"),
        ("image", "Canonical:0001-com-ubuntu-server-jammy:22_04-lts:1.2.3", "Gen1"),
        ("image", "Canonical:ubuntu-24_04-lts:server-arm64:1.2.3", "Arm"),
        ("os_disk_size_gb", "10", "greater than or equal to 30"),
        ("os_disk_type", "Ultra", "Premium_LRS"),
        ("vnet_cidr", "8.8.0.0/16", "private range"),
        ("subnet_cidr", "10.1.0.0/24", "inside vnet_cidr"),
        ("subnet_cidr", "10.0.0.0/30", "take a /29"),
        ("subnet_cidr", "10.0.0.1/24", "host bits"),
        ("allowed_ssh_cidr", "0.0.0.0/0", "allow_ssh_from_anywhere"),
        ("allowed_ssh_cidr", "*", "must be an IPv4 range"),
        ("allowed_ssh_cidr", "10.0.0.0/8", "overlaps vnet_cidr"),
        ("existing_subnet_id", "snet-compute", "az network vnet subnet show"),
        ("ssh_public_key_path", "/nowhere/key.pub", "ssh-keygen"),
        ("ssh_private_key_path", "/nowhere/key", "no such file"),
        ("spot_max_price", "0", "more than 0"),
        ("spot_max_price", "0.5", "set spot to true"),
        ("spot_eviction_policy", "Keep", "Deallocate"),
        ("deallocate_at", "25:00", "four digits of UTC"),
        ("tags", "owner", "name=value"),
        ("tags", "a?b=c", "none of"),
        ("tags", "Owner=a,owner=b", "twice"),
        ("tags", "microsoft-x=1", "reserves"),
    ],
)
def test_a_wrong_value_is_refused_with_the_fix(key: str, value: str, says: str) -> None:
    message = complaint(**{key: value})
    assert "1 error in" in message
    assert f"{key} = " in message
    assert says in message


def test_premium_disks_need_a_size_with_an_s() -> None:
    message = complaint(vm_size="Standard_D16_v5", os_disk_type="Premium_LRS")
    assert "Standard_D16_v5 has no Premium disks; take Standard_D16s_v5" in message
    assert settings.validate({**BASE, "os_disk_type": "Premium_LRS"}).os_disk_type == "Premium_LRS"


def test_a_subnet_must_hold_the_nodes() -> None:
    assert "has 11 free addresses for 12 nodes" in complaint(
        subnet_cidr="10.0.0.0/28", node_count=12
    )
    assert settings.validate({**BASE, "subnet_cidr": "10.0.0.0/28", "node_count": 11})


def test_the_world_may_knock_when_a_second_key_says_so() -> None:
    open_wide = {**BASE, "allowed_ssh_cidr": "0.0.0.0/0", "allow_ssh_from_anywhere": "true"}
    assert settings.validate(open_wide).allowed_ssh_cidr[0].prefixlen == 0


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("-----BEGIN OPENSSH PRIVATE KEY-----\nc2VjcmV0\n", "holds a private key"),
        ("ecdsa-sha2-nistp256 AAAA me\n", "Azure accepts"),
        ("ssh-ed25519 AAAA!! me\n", "damaged"),
        ("ssh-ed25519 AAAAC3NzaC1yc2EAAAA me\n", "damaged"),
        ("", "exactly one"),
    ],
)
def test_a_key_file_holds_one_public_key(tmp_path: Path, text: str, says: str) -> None:
    file = tmp_path / "key.pub"
    file.write_text(text)
    message = complaint(ssh_public_key_path=str(file))
    assert says in message
    assert "c2VjcmV0" not in message


def test_a_private_key_in_the_config_is_never_repeated() -> None:
    pasted = "-----BEGIN OPENSSH PRIVATE KEY-----\nc2VjcmV0\n"
    message = complaint(ssh_private_key_path=pasted)
    assert "never the key itself" in message
    assert "c2VjcmV0" not in message


def test_the_private_key_is_the_path_that_was_given_on_any_machine(tmp_path: Path) -> None:
    public = tmp_path / "id.pub"
    public.write_text(KEY.read_text())
    private = tmp_path / "id"
    private.write_text("")
    values = {**BASE, "ssh_public_key_path": str(public)}
    assert settings.validate(values).private_key_path is None
    assert settings.validate({**values, "ssh_private_key_path": "agent"}).private_key_path is None
    given = settings.validate({**values, "ssh_private_key_path": str(private)})
    assert given.private_key_path == str(private)


def test_a_public_key_can_be_given_itself(tmp_path: Path) -> None:
    inline = KEY.read_text().strip()
    values = {"allowed_ssh_cidr": "203.0.113.7/32", "ssh_public_key": inline}
    nowhere = settings.validate({**values, "ssh_public_key_path": str(tmp_path / "absent.pub")})
    assert nowhere.public_key == inline
    assert "Azure accepts" in complaint(ssh_public_key="ecdsa-sha2-nistp256 AAAA me")
    pasted = complaint(ssh_public_key="-----BEGIN OPENSSH PRIVATE KEY-----\nc2VjcmV0\n")
    assert "holds a private key" in pasted
    assert "c2VjcmV0" not in pasted


def test_a_budget_needs_an_address() -> None:
    assert "budget_email = '': must be an address" in complaint(monthly_budget="500")
    assert settings.validate({**BASE, "monthly_budget": "5", "budget_email": "a@b.org"})


def test_ranges_can_be_several() -> None:
    config = settings.validate(
        {
            **BASE,
            "node_count": "12",
            "vnet_cidr": "10.0.0.0/24,10.1.0.0/16",
            "subnet_cidr": "10.0.0.0/29, 10.1.0.0/28",
            "allowed_ssh_cidr": "203.0.113.7/32,198.51.100.0/24",
        }
    )
    # Azure keeps the first four addresses of each range and the last.
    assert [str(config.private_ip(index)) for index in (0, 2, 3, 11)] == [
        *("10.0.0.4", "10.0.0.6", "10.1.0.4", "10.1.0.12")
    ]
    assert settings.validate({"name": "", **BASE, **config.as_strings()}) == config.model_copy(
        update={
            "ssh_public_key": config.public_key,
        }
    )
    assert "addresses twice" in complaint(subnet_cidr="10.0.0.0/28,10.0.0.0/29")
    assert "inside vnet_cidr" in complaint(subnet_cidr="10.0.0.0/28,10.7.0.0/29")
    assert "must be an IPv4 range" in complaint(allowed_ssh_cidr="203.0.113.7/32,x")


@pytest.mark.parametrize("name", sizes.known_names())
def test_every_known_size_is_taken(name: str) -> None:
    size = sizes.parse(name)
    assert size.vcpus >= sizes.SMALLEST_VCPUS
    assert size.premium_disks == ("s_" in name)


def test_pulumi_yaml_declares_every_key_with_type_default_and_description() -> None:
    project = yaml.safe_load((CHECKOUT / "Pulumi.yaml").read_text())
    assert project["runtime"]["options"] == {"toolchain": "pip", "virtualenv": ".venv-pulumi"}
    assert list(project["config"]) == list(ClusterConfig.model_fields)
    for key, field in ClusterConfig.model_fields.items():
        declared = project["config"][key]
        assert declared["description"] == field.description
        assert declared["type"] in ("string", "integer", "boolean")
        if field.is_required():
            assert "default" not in declared
        elif declared["type"] == "string":
            assert declared["default"] == str(field.default)
        else:
            assert declared["default"] == field.default


def test_only_the_ssh_range_has_no_default() -> None:
    required = [key for key, field in ClusterConfig.model_fields.items() if field.is_required()]
    assert required == ["allowed_ssh_cidr"]


def test_pulumis_own_environment_is_that_of_pyproject(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert pulumi_requirements.main(["--check"]) == 0
    assert "torch" not in pulumi_requirements.text()
    (tmp_path / "pyproject.toml").write_text((CHECKOUT / "pyproject.toml").read_text())
    (tmp_path / "requirements.txt").write_text("torch\n")
    assert pulumi_requirements.main(["--check"], tmp_path) == 1
    assert "is stale" in capsys.readouterr().err
    assert pulumi_requirements.main([], tmp_path) == 0
    assert pulumi_requirements.main(["--check"], tmp_path) == 0


def test_the_program_is_short() -> None:
    assert len((CHECKOUT / "__main__.py").read_text().splitlines()) <= 15


@pytest.mark.parametrize(
    ("project", "stack"),
    [("xeon-diffusion", "dev"), ("X" * 100, "y" * 100), ("a_b.c", "ÄÖÜ"), ("...", "___")],
)
def test_names_fit_azures_limits_for_any_project_and_stack(project: str, stack: str) -> None:
    names = Names.of(project, stack)
    assert names == Names.of(project, stack)
    limits = {
        names.resource_group(): 90,
        names.virtual_network(): 64,
        names.subnet(): 80,
        names.network_security_group(): 80,
        names.nat_gateway(): 80,
        names.public_ip("head"): 80,
        names.proximity_placement_group("3"): 80,
        names.network_interface(99): 80,
        names.virtual_machine(99): 63,
        names.os_disk(99): 80,
        names.data_disk(): 80,
        names.budget(): 63,
    }
    for name, limit in limits.items():
        assert len(name) <= limit
        assert name.isascii()
        assert name.replace("-", "").isalnum()
        assert not name.endswith("-")


def test_stacks_that_look_alike_have_distinct_names() -> None:
    stacks = ["dev", "Dev", "d.ev", "d-ev", "d_ev", "x" * 90, "x" * 91]
    assert len({Names.of("xeon-diffusion", stack).stem for stack in stacks}) == len(stacks)
