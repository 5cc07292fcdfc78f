"""The head deallocates the VMs through Azure's resource manager, its own last."""

from __future__ import annotations

import pytest

from bootstrap.errors import UserError
from bootstrap.node.azure import deallocate
from tests.azure_vm import Azure, in_azure


def test_the_head_deallocates_itself_last(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deallocate, "BETWEEN_TRIES", 0.0)
    vms = "/subscriptions/s/resourceGroups/g/providers/Microsoft.Compute/virtualMachines"
    with in_azure(monkeypatch):
        assert deallocate.main(["worker-1", "head"]) == 0
        assert Azure.asked[2:] == [
            f"POST {vms}/worker-1/deallocate Bearer t0ken",
            f"POST {vms}/head/deallocate Bearer t0ken",
        ]
        Azure.asked = []
        assert deallocate.main(["--check", "head"]) == 0
        assert Azure.asked[2:] == [f"GET {vms}/head Bearer t0ken"]
        Azure.refused = {"head"}
        with pytest.raises(UserError, match="answered 403"):
            deallocate.deallocate(["head"], check=True)
        Azure.asked, Azure.refused, Azure.once = [], {"worker-1", "worker-2"}, {"worker-2"}
        with pytest.raises(UserError, match=r"worker-1: .* answered 403"):
            deallocate.deallocate(["worker-1", "worker-2", "head"], check=False)
        asked = [line.split("/")[-2] for line in Azure.asked[2:]]
        assert asked == [
            "worker-1",
            "worker-2",
            "worker-1",
            "worker-2",
            "worker-1",
            "worker-1",
            "head",
        ]


def test_the_metadata_service_is_asked_without_a_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with in_azure(monkeypatch):
        assert deallocate._identity() == ("t0ken", "/subscriptions/s/resourceGroups/g")
