"""preflight, pause and resume: Azure's own clients against a server that answers as ARM does."""

from __future__ import annotations

import datetime
import io
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from azure.core.exceptions import ClientAuthenticationError
from rich.console import Console

from infra import prices
from infra.azure import boot_log, power, preflight
from infra.azure.arm import Azure, only_subscription
from infra.config import settings
from infra.errors import UserError
from infra.inventory import Inventory
from scripts import live
from tests.arm_server import Answer, ArmServer, serving
from tests.infra_plans import BASE, planned

CHECKOUT = Path(__file__).parents[4]
Pair = tuple[ArmServer, Azure]
THROTTLED = Answer(429, headers=(("Retry-After", "1"),))


@pytest.fixture
def arm(tmp_path: Path) -> Iterator[Pair]:
    """A subscription where all is well."""
    with serving(tmp_path) as pair:
        yield pair


def checked(azure: Azure, **changes: str) -> dict[str, preflight.Check]:
    config = settings.validate({**BASE, **changes})
    return {check.what: check for check in preflight.checks(azure, config)}


def wrong(azure: Azure, **changes: str) -> dict[str, str]:
    found = checked(azure, **changes)
    return {what: f"{one.found}; {one.fix}" for what, one in found.items() if not one.well}


def test_preflight_where_all_is_well(arm: Pair, capsys: pytest.CaptureFixture[str]) -> None:
    _, azure = arm
    found = checked(azure)
    assert all(check.well for check in found.values())
    assert list(found) == [
        "signed in", "subscription", "rights", "Microsoft.Compute", "Microsoft.Network", "image",
        "size", "size features", "quota cores", "quota standardDSv5Family", "price",
    ]  # fmt: skip
    assert "Ana's" in found["subscription"].found
    flags = [word for key, value in BASE.items() for word in ("--set", f"{key}={value}")]
    assert preflight.main(flags, azure) == 0
    assert "NO" not in capsys.readouterr().out


def test_preflight_shows_words_with_brackets_as_they_are() -> None:
    words = "[/subscriptions/x] y [red]z"
    console = Console(width=300, file=io.StringIO(), record=True)
    preflight.show([preflight.Check(words, False, words, words)], console)
    assert console.export_text().count(words) == 3


def test_preflight_tells_each_quota_apart(arm: Pair) -> None:
    server, azure = arm
    server.usage["standardDSv5Family"] = (50, 10)
    assert list(wrong(azure)) == ["quota standardDSv5Family"]
    assert "40 of 50 free, 48 needed; ask for 8 more" in str(wrong(azure))
    server.usage["cores"] = (10, 10)
    assert list(wrong(azure)) == ["quota cores", "quota standardDSv5Family"]
    assert wrong(azure, spot="true") == {}
    server.usage["lowPriorityCores"] = (3, 0)
    assert list(wrong(azure, spot="true")) == ["quota lowPriorityCores"]


def against(azure: Azure, made: dict[str, str], **changes: str) -> dict[str, preflight.Check]:
    """A config checked where a cluster exists that was made with another."""
    config = settings.validate({**BASE, **made, **changes})
    living = Inventory.model_validate(planned(made)["outputs"])
    return {check.what: check for check in preflight.checks(azure, config, living)}


def test_preflight_subtracts_the_clusters_own_vms(arm: Pair) -> None:
    server, azure = arm
    server.usage["cores"] = server.usage["standardDSv5Family"] = (64, 48)
    server.power = {f"vm-xeon-diffusion-dev-{index}": "running" for index in range(3)}
    found = against(azure, {}, node_count="4")
    assert found["quota cores"].well
    assert found["quota standardDSv5Family"].well
    text = found["quota cores"].found
    assert text == "16 of 64 free, 64 needed (the cluster already uses 48 of them)"
    assert found["changes"].found == "create: interface, machine"

    def cores(count: int, **changes: str) -> preflight.Check:
        config = settings.validate({**BASE, "node_count": str(count), **changes})
        asked = preflight.checks(azure, config, inventory(config=None))
        return next(check for check in asked if check.what.startswith("quota"))

    assert "ask for 16 more" in cores(5).fix
    # Deallocated VMs take nothing of the quota, and those that are gone neither.
    server.power["vm-xeon-diffusion-dev-1"] = "deallocated"
    del server.power["vm-xeon-diffusion-dev-2"]
    assert "already uses 16 of them)" in cores(4).found
    server.power, server.priority = {"vm-xeon-diffusion-dev-0": "running"}, "Spot"
    server.usage["lowPriorityCores"] = (48, 16)
    assert cores(3, spot="true").well


def test_preflight_does_not_advise_what_a_living_cluster_cannot_do(arm: Pair) -> None:
    server, azure = arm
    server.sku["restrictions"] = [
        {"type": "Zone", "restrictionInfo": {"zones": ["1"]}, "reasonCode": "NotAvailable"}
    ]
    there = against(azure, {"zone": "1"})["size"]
    assert not there.well
    assert "stays in its zone" in there.fix
    assert "pulumi config set zone" not in there.fix
    found = against(azure, {}, zone="2")["changes"]
    assert not found.well
    assert "Azure cannot move a VM between zones" in found.fix


def test_preflight_says_that_old_nodes_keep_the_old_image(arm: Pair) -> None:
    image = "Canonical:ubuntu-24_04-lts:server:24.4.1"
    found = against(arm[1], {}, node_count="4", image=image)
    assert "machine-0, machine-1, machine-2: storageProfile.imageReference" in found["note"].found
    assert "new nodes get what the config says" in found["note"].found


def test_a_key_that_is_kept_as_a_secret_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pulumi").write_text(
        '#!/bin/sh\necho \'{"xeon-diffusion:tags": {"secret": true}}\'\n'
    )
    (tmp_path / "pulumi").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with pytest.raises(UserError, match=r"tags: is stored as a secret, .*--plaintext"):
        preflight.stack_values()


def test_the_subscription_is_the_one_that_pulumi_uses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, text in (
        ("pulumi", '{"azure-native:subscriptionId": {"value": "of-the-stack"}}'),
        ("az", "of-az-login"),
    ):
        (tmp_path / name).write_text(f"#!/bin/sh\necho '{text}'\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("ARM_SUBSCRIPTION_ID", "of-the-environment")
    living = Inventory.model_validate(planned()["outputs"])
    assert preflight.account(living, selected=True).subscription_id == living.subscription_id
    assert preflight.account(None, selected=True).subscription_id == "of-the-stack"
    assert preflight.account(None, selected=False).subscription_id == "of-the-environment"
    monkeypatch.delenv("ARM_SUBSCRIPTION_ID")
    monkeypatch.delenv("AZURE_SUBSCRIPTION_ID", raising=False)
    assert preflight.account(None, selected=False).subscription_id == "of-az-login"


def test_preflight_names_the_newest_image(arm: Pair) -> None:
    server, azure = arm
    server.versions = ["24.04.202610010"]
    assert "ubuntu-24_04-lts:server:24.04.202610010" in wrong(azure)["image"]
    server.versions, server.generation = ["24.04.202609040"], "V1"
    assert "needs a Gen2 image" in wrong(azure)["image"]


def test_preflight_looks_at_the_size(arm: Pair) -> None:
    server, azure = arm
    assert "no Standard_D8s_v5 in eastus" in wrong(azure, vm_size="Standard_D8s_v5")["size"]
    # The answer for the region has it not, that for all of them has.
    server.planted["Microsoft.Compute/skus"] = [Answer(200, b'{"value": []}')]
    server.sku["locations"] = ["westus2", "northeurope"]
    told = wrong(azure)["size"]
    assert told == (
        "no Standard_D16s_v5 in eastus; pulumi config set location, to one of: northeurope, westus2"
    )
    server.sku["capabilities"] = [{"name": "TrustedLaunchDisabled", "value": "True"}]
    told = wrong(azure)["size features"]
    assert "accelerated networking, Gen2, Trusted Launch" in told
    assert "Premium disks" in wrong(azure, os_disk_type="Premium_LRS")["size features"]
    server.sku["restrictions"] = [
        {"type": "Zone", "restrictionInfo": {"zones": ["1"]}, "reasonCode": "NotAvailable"}
    ]
    assert "zones 2, 3; pulumi config set zone 2" in wrong(azure, zone="1")["size"]
    server.sku["restrictions"] = [{"type": "Location", "reasonCode": "NotAvailable"}]
    assert "closed to this subscription" in wrong(azure)["size"]


def test_preflight_looks_at_rights_and_providers(arm: Pair) -> None:
    server, azure = arm
    server.actions = {"actions": ["*/read"], "notActions": []}
    server.registration = "NotRegistered"
    told = wrong(azure)
    assert list(told) == ["rights", "Microsoft.Compute", "Microsoft.Network"]
    assert "virtualMachines/write" in told["rights"]
    assert "az provider register --namespace Microsoft.Compute" in told["Microsoft.Compute"]
    server.actions, server.registration = {"actions": ["*"], "notActions": []}, "Registered"
    assert list(wrong(azure, deallocate_at="0130")) == ["Microsoft.DevTestLab"]


def test_preflight_knows_what_giving_the_head_a_role_needs(arm: Pair) -> None:
    server, azure = arm
    server.actions = {"actions": ["*"], "notActions": ["Microsoft.Authorization/*/Write"]}
    assert wrong(azure) == {}
    told = wrong(azure, head_may_deallocate="true")
    assert list(told) == ["rights"]
    assert "roleAssignments/write" in told["rights"]
    assert "User Access Administrator" in told["rights"]


class NotSignedIn:
    def get_token(self, *scopes: str, **options: Any) -> None:
        raise ClientAuthenticationError("no account")


def test_preflight_without_a_sign_in_asks_nothing_else(
    arm: Pair, capsys: pytest.CaptureFixture[str]
) -> None:
    server, azure = arm
    stranger = Azure(NotSignedIn(), azure.subscription_id, azure.endpoint, azure.options)
    told = "no answer; Azure does not accept this sign-in. Run: az login"
    assert wrong(stranger) == {"signed in": told}
    assert server.asked == []
    flags = [word for key, value in BASE.items() for word in ("--set", f"{key}={value}")]
    assert preflight.main(flags, stranger) == 1
    assert "az login" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("answers", "says"),
    [
        ([Answer(401)], "az login"),
        ([Answer(403)], "ask for the role contributor"),
        ([THROTTLED] * 4, "limits the rate of requests"),
        ([Answer(500)] * 4, "failed (500) several times"),
        ([Answer(200, b'{"value": [', torn=5)] * 4, "answer was incomplete"),
        ([Answer(200, b'{"value": [')], "answer was incomplete"),
        ([Answer(200, b"{}", delay=1.5)] * 4, "cannot be reached or did not answer in time"),
    ],
    ids=["401", "403", "429", "500", "torn connection", "torn JSON", "slow"],
)
def test_a_bad_answer_is_one_line_of_the_table(arm: Pair, answers: list[Answer], says: str) -> None:
    server, azure = arm
    server.planted["/usages"] = list(answers)
    told = wrong(azure)
    assert list(told) == ["size and quota"]
    assert says.lower() in told["size and quota"].lower()


def test_a_throttled_and_a_failed_question_are_asked_again(arm: Pair) -> None:
    server, azure = arm
    server.planted["/usages"] = [THROTTLED, Answer(500)]
    assert wrong(azure) == {}
    asked = [
        when
        for when, (_, path) in zip(server.times, server.asked, strict=True)
        if path.endswith("/usages")
    ]
    assert len(asked) == 3
    assert asked[1] - asked[0] >= 1.0, "Retry-After is kept"


def test_the_only_subscription_is_found_and_several_are_listed(arm: Pair) -> None:
    server, azure = arm
    assert only_subscription(azure) == azure.subscription_id
    two = [{"subscriptionId": name, "displayName": name, "state": "Enabled"} for name in "ab"]
    server.planted["/subscriptions"] = [Answer(200, json.dumps({"value": two}).encode())]
    with pytest.raises(UserError, match="2 enabled subscriptions; name the one that pays"):
        only_subscription(azure)


def inventory(**changes: Any) -> Inventory:
    return Inventory.model_validate({**planned()["outputs"], **changes})


def test_pause_deallocates_every_vm(arm: Pair) -> None:
    server, azure = arm
    said: list[str] = []
    power.pause(azure, inventory(), said.append, poll=0.01)
    assert server.power == {f"vm-xeon-diffusion-dev-{n}": "deallocated" for n in range(3)}
    posts = [path for method, path in server.asked if method == "POST"]
    assert all("/resourceGroups/rg-xeon-diffusion-dev/" in path for path in posts)
    assert "still billed" in said[-1]


def test_resume_starts_every_vm_and_waits_until_they_answer(arm: Pair) -> None:
    server, azure = arm
    server.agent_after = 2
    with socket.socket() as head:
        head.bind(("127.0.0.1", 0))
        port = head.getsockname()[1]
        # SSH comes up a little later than the agents.
        timer = threading.Timer(0.5, head.listen)
        timer.start()
        said: list[str] = []
        here = inventory(gateway="127.0.0.1")
        power.resume(azure, here, said.append, poll=0.05, seconds=20, port=port)
        timer.join()
    assert set(server.power.values()) == {"running"}
    assert set(server.views.values()) == {3}
    assert "3 VMs are up: ssh azureuser@" in said[-1]


def test_resume_names_the_vms_that_do_not_answer(arm: Pair) -> None:
    server, azure = arm
    server.agent_after = 10_000
    with pytest.raises(UserError, match=r"vm-xeon-diffusion-dev-0, .* does not answer after 0 s"):
        power.resume(azure, inventory(), poll=0.01, seconds=0.1)


def test_resume_says_when_only_ssh_is_closed(arm: Pair) -> None:
    _, azure = arm
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
        with pytest.raises(UserError, match="allowed_ssh_cidr"):
            power.resume(azure, inventory(gateway="127.0.0.1"), poll=0.01, seconds=0.3, port=port)


@pytest.mark.parametrize(
    ("answers", "says"),
    [
        ([Answer(401)], "az login"),
        ([Answer(403)], "role Contributor"),
        ([Answer(404)], "does not exist"),
        ([Answer(409)], "another operation on it is running"),
        ([Answer(500)] * 4, "failed (500)"),
        ([THROTTLED] * 4, "limits the rate of requests"),
    ],
    ids=["401", "403", "404", "409", "500", "429"],
)
def test_a_vm_that_does_not_stop_is_named_and_the_others_do(
    arm: Pair, answers: list[Answer], says: str
) -> None:
    server, azure = arm
    server.planted["vm-xeon-diffusion-dev-1/deallocate"] = list(answers)
    with pytest.raises(UserError) as raised:
        power.pause(azure, inventory(), lambda text: None, poll=0.01)
    assert "1 of 3 VMs did not deallocate:\n  vm-xeon-diffusion-dev-1: " in str(raised.value)
    assert says in str(raised.value)
    assert len(server.power) == 2


def test_a_failed_operation_is_told(arm: Pair) -> None:
    server, azure = arm
    failed = {"status": "Failed", "error": {"code": "AllocationFailed", "message": "no capacity"}}
    server.planted["vm-xeon-diffusion-dev-2/done"] = [Answer(200, json.dumps(failed).encode())]
    said = r"has no capacity .*\(.*no capacity.*proximity_placement_group false"
    with pytest.raises(UserError, match=said):
        power.resume(azure, inventory(), lambda text: None, poll=0.01)


def test_the_commands_say_what_is_missing_without_a_traceback(tmp_path: Path) -> None:
    quiet = {**os.environ, "PATH": str(tmp_path)}
    absent = str(tmp_path / "absent.json")
    for words, says in (
        (["infra.azure.power", "pause", "--inventory", absent], "cannot be read"),
        (["infra.azure.power", "resume"], "pulumi is not on the PATH"),
        (["infra.azure.preflight"], "pulumi is not on the PATH"),
        (["infra.azure.preflight", "--set", "node_cout=3"], "did you mean node_count?"),
    ):
        finished = subprocess.run(
            [sys.executable, "-m", *words],
            cwd=CHECKOUT,
            env=quiet,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert finished.returncode == 2
        assert says in finished.stderr
        assert "Traceback" not in finished.stderr


@pytest.mark.usefixtures("selected_stack")
def test_the_config_and_the_inventory_come_from_the_selected_stack(arm: Pair) -> None:
    assert preflight.stack_values() == BASE
    assert power.inventory_of(None) == inventory()
    assert preflight.main([], arm[1]) == 0


class _PriceList(BaseHTTPRequestHandler):
    body = b""

    def do_GET(self) -> None:  # the base class's spelling
        self.send_response(200)
        self.end_headers()
        self.wfile.write(self.body)

    def log_message(self, format: str, *args: object) -> None:
        """Nobody reads it."""


def test_the_live_price_is_that_of_linux_or_nothing() -> None:
    items = [
        {"retailPrice": 1.5, "productName": "Dsv5 Series Windows", "meterName": "D16s v5"},
        {"retailPrice": 0.8, "productName": "Dsv5 Series", "meterName": "D16s v5"},
        {"retailPrice": 0.2, "productName": "Dsv5 Series", "meterName": "D16s v5 Spot"},
        {"retailPrice": 0.1, "productName": "Dsv5 Series", "meterName": "D16s v5 Low Priority"},
    ]
    server = HTTPServer(("127.0.0.1", 0), _PriceList)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    endpoint = f"http://127.0.0.1:{server.server_address[1]}"
    config = settings.validate(BASE)
    try:
        _PriceList.body = json.dumps({"Items": items}).encode()
        assert prices.live(config, endpoint) == 0.8
        assert prices.live(settings.validate({**BASE, "spot": "true"}), endpoint) == 0.2
        _PriceList.body = b'{"Items": ['
        assert prices.live(config, endpoint) is None
    finally:
        server.shutdown()
        server.server_close()
    assert prices.live(config, endpoint) is None


def test_prices_add_up_and_unknown_ones_stay_unknown() -> None:
    price = prices.of(settings.validate(BASE))
    # 3 x 16 x 0.048, 3 disks at 9.60 a month, NAT gateway 0.045, two addresses at 0.005.
    assert price.per_hour == pytest.approx(2.304 + 3 * 9.6 / 730 + 0.045 + 0.01, abs=1e-4)
    assert price.paused_per_hour == pytest.approx(3 * 9.6 / 730 + 0.055, abs=1e-4)
    nowhere = prices.of(settings.validate({**BASE, "location": "mars"}))
    assert nowhere.per_hour is None
    assert nowhere.paused_per_hour is None
    odd = settings.validate({**BASE, "os_disk_size_gb": "33"})
    assert prices.of(odd).paused_per_hour == pytest.approx(3 * 4.8 / 730 + 0.055, abs=1e-4)


def test_the_price_service_answer_takes_the_place_of_the_tables_and_is_of_today() -> None:
    price = prices.of(settings.validate({**BASE, "location": "mars"}), vm_now=0.7)
    assert price.lines[0].per_hour == pytest.approx(2.1)
    assert price.lines[0].source == prices.RETAIL_ENDPOINT
    assert price.as_of == price.lines[0].as_of > "2026-11-01"


def test_a_vm_price_is_rounded_as_azure_rounds_it() -> None:
    # Four sizes as the source lists them.
    listed = {4: 0.202, 16: 0.806, 32: 1.613, 192: 9.677}
    for vcpus, usd in listed.items():
        config = settings.validate({**BASE, "vm_size": f"Standard_D{vcpus}s_v6"})
        assert prices.of(config).lines[0].each_per_hour == usd


def test_every_figure_of_the_price_table_has_a_public_source_and_a_day() -> None:
    table = prices.table()
    assert set(table["sources"]) == set(table) - {"currency", "sources"}
    for source in table["sources"].values():
        assert source["url"].startswith("https://")
        assert datetime.date.fromisoformat(source["as_of"]) <= datetime.date(2026, 11, 27)


@pytest.fixture
def selected_stack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program named pulumi that prints a stack's config, outputs, and name."""
    config = {f"xeon-diffusion:{key}": {"value": value} for key, value in BASE.items()}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "stack-output.json").write_text(json.dumps(planned()["outputs"]))
    stacks = [{"name": "prod", "current": False}, {"name": "dev", "current": True}]
    (tmp_path / "stack-ls.json").write_text(json.dumps(stacks))
    pulumi = tmp_path / "pulumi"
    pulumi.write_text(
        f'#!/bin/sh\n[ "$1" = stack ] && exec cat {tmp_path}/stack-"$2".json\n'
        f'exec cat {tmp_path}/"$1".json\n'
    )
    pulumi.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")


@pytest.mark.usefixtures("selected_stack")
def test_live_spends_nothing_without_a_yes(arm: Pair, capsys: pytest.CaptureFixture[str]) -> None:
    ran: list[str] = []

    def count(words: Sequence[str]) -> int:
        ran.append(words[0])
        return 0

    assert live.main(lambda text: "y", count, arm[1]) == 1
    assert ran == []
    assert "3 VMs for about 2.40 USD per hour" in capsys.readouterr().out
    arm[0].usage["cores"] = (0, 0)
    assert live.main(lambda text: "yes", count, arm[1]) == 1
    assert ran == [], "a failed preflight does not even ask"


@pytest.mark.usefixtures("selected_stack")
@pytest.mark.parametrize(
    "failing", ["up", "bootstrap", "check", "train", "fetch", "destroy", "nothing"]
)
def test_live_destroys_whatever_happens(arm: Pair, failing: str) -> None:
    ran: list[str] = []

    def run(words: Sequence[str]) -> int:
        ran.append(words[1])
        return int(ran[-1] == failing)

    assert live.main(lambda text: "yes", run, arm[1]) == (0 if failing == "nothing" else 1)
    steps = ["up", "bootstrap", "check", "train", "fetch"]
    done = steps[: steps.index(failing) + 1] if failing in steps else steps
    assert ran == [*done, "destroy"]


@pytest.mark.usefixtures("selected_stack")
def test_live_destroys_after_ctrl_c(arm: Pair) -> None:
    ran: list[str] = []

    def run(words: Sequence[str]) -> int:
        ran.append(words[1])
        if words[1] == "train":
            raise KeyboardInterrupt
        return 0

    with pytest.raises(KeyboardInterrupt):
        live.main(lambda text: "yes", run, arm[1])
    assert ran[-1] == "destroy"


@pytest.mark.usefixtures("selected_stack")
@pytest.mark.parametrize("failing", ["up", "nothing"])
def test_live_says_when_the_group_is_still_there(
    arm: Pair, capsys: pytest.CaptureFixture[str], failing: str
) -> None:
    arm[0].planted["/resourcegroups/rg-xeon-diffusion-dev"] = [Answer(204, b"")]
    assert live.main(lambda text: "yes", lambda words: int(words[1] == failing), arm[1]) == 1
    assert "az group delete --name rg-xeon-diffusion-dev" in capsys.readouterr().err


FIRST, SECOND = "SHA256:" + "a" * 43, "SHA256:" + "b" * 43
CONSOLE = (
    "[   12.3] cloud-init[901]: ci-info: +----+\n"
    "<14>Nov 21 12:00:00 cloud-init: -----BEGIN SSH HOST KEY FINGERPRINTS-----\n"
    "<14>Nov 21 12:00:00 cloud-init: 256 {print} root@vm (ED25519)\n"
    "<14>Nov 21 12:00:00 cloud-init: -----END SSH HOST KEY FINGERPRINTS-----\n"
    f"sshd[3]: Accepted publickey SHA256:{'c' * 43}\n"
)


def test_host_keys_are_read_from_the_last_boots_console() -> None:
    log = CONSOLE.format(print=FIRST) + CONSOLE.format(print=SECOND)
    assert boot_log.fingerprints_in(log) == {SECOND}
    assert boot_log.fingerprints_in("login: ") == frozenset()


def test_nodes_whose_console_cannot_be_read_are_left_out(arm: Pair) -> None:
    server, azure = arm
    inventory = Inventory.model_validate(planned()["outputs"])
    first, second, third = (node.name for node in inventory.nodes)
    server.planted[f"{second}/retrieve"] = [Answer(403)]

    def download(address: str) -> bytes:
        if third in address:
            raise OSError("gone")
        return CONSOLE.format(print=FIRST).encode()

    assert boot_log.fingerprints(azure, inventory, download) == {first: {FIRST}}
