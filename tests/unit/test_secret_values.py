"""A value of a Secret is changed and put back by digests alone, never over somebody else's change: the rules, on objects in memory."""

from typing import Any

import pytest
from blackstart.injectors.model_files import CredentialExpire
from blackstart.injectors.platforms import object_guard
from blackstart.injectors.platforms.base import Means
from blackstart.injectors.platforms.kube_guard import _rule
from blackstart.injectors.platforms.kube_pods import secret_of, uses_secret
from blackstart.injectors.platforms.kube_rights import needed
from blackstart.injectors.platforms.object_guard import AS_BEFORE, Failed, revert
from blackstart.tests.unit.small_cluster import BEFORE, CHANGE, KEPT_AT, OURS, PATH, ROTATED, Objects


def test_it_is_put_back_once_and_what_it_was_is_not_kept_any_longer() -> None:
    objects = Objects(OURS, kept=True)
    assert revert(CHANGE, objects)["reason"] == "put back"
    assert (objects.value, list(objects.there)) == (BEFORE, [PATH])
    assert revert(CHANGE, objects)["event"] == "undone"
    assert objects.value == BEFORE


@pytest.mark.parametrize("kept", [True, False])
def test_what_was_never_changed_stays(kept: bool) -> None:
    objects = Objects(BEFORE, kept=kept)
    assert revert(CHANGE, objects)["event"] == "undone"
    assert (objects.value, list(objects.there)) == (BEFORE, [PATH])


def test_a_new_value_of_somebody_else_is_left_alone_and_the_old_one_is_kept() -> None:
    objects = Objects(ROTATED, kept=True)
    answer = revert(CHANGE, objects)
    assert answer["event"] == "foreign"
    assert KEPT_AT in answer["why"]
    assert (objects.value, list(objects.there)) == (ROTATED, [PATH, KEPT_AT])
    after = Objects(ROTATED, kept=False)  # after an undo that was proven
    assert revert(CHANGE, after)["event"] == "undone"
    assert after.value == ROTATED


def test_what_is_gone_needs_no_copy() -> None:
    objects = Objects(OURS, kept=True)
    del objects.there[PATH]
    assert revert(CHANGE, objects) == {"event": "undone", "reason": "it is gone"}
    assert objects.there == {}
    assert revert(CHANGE, objects)["event"] == "undone"


def test_another_one_in_its_place_is_left_alone_and_needs_no_copy() -> None:
    objects = Objects(ROTATED, kept=True)
    objects.there[PATH]["metadata"]["uid"] = "another"
    assert revert(CHANGE, objects) == {"event": "undone", "reason": "another object stands in its place"}
    assert (objects.value, list(objects.there)) == (ROTATED, [PATH])


def test_another_one_that_was_made_with_our_value_leaves_the_only_copy() -> None:
    objects = Objects(OURS, kept=True)
    objects.there[PATH]["metadata"]["uid"] = "another"
    answer = revert(CHANGE, objects)
    assert (answer["event"], KEPT_AT in answer["why"]) == ("foreign", True)
    assert (objects.value, list(objects.there)) == (OURS, [PATH, KEPT_AT])


def test_what_is_changed_while_its_copy_goes_is_put_back_from_what_was_read() -> None:
    objects = Objects(BEFORE, kept=True)
    objects.after["DELETE", KEPT_AT] = lambda: objects.become(OURS)
    assert revert(CHANGE, objects)["reason"] == "put back"
    assert (objects.value, list(objects.there)) == (BEFORE, [PATH])


def test_never_changed_is_said_only_where_it_is_known() -> None:
    assert revert(CHANGE, Objects(BEFORE, kept=True))["reason"] == AS_BEFORE
    objects = Objects(BEFORE, kept=True)
    for value in (OURS, BEFORE):  # an undo that was cut off before it removed the copy
        objects.become(value)
    assert revert(CHANGE, objects) == {"event": "undone", "reason": "it is as before again"}


def test_what_was_kept_and_is_gone_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(object_guard, "ROUND_S", 0.0)
    objects = Objects(OURS, kept=False)
    with pytest.raises(Failed, match="is gone"):
        revert(CHANGE, objects)
    assert objects.value == OURS


def test_the_guard_may_read_and_patch_the_secret_and_delete_only_what_is_ours() -> None:
    assert _rule(PATH)["verbs"] == ["get", "patch"]
    assert _rule(KEPT_AT)["verbs"] == ["get", "delete"]


def test_a_drill_of_a_secret_asks_for_the_rights_to_it_and_no_other_does() -> None:
    means = CredentialExpire("/t", secret=True).takes(), CredentialExpire("/t").takes()
    asked = [{right.resource for right in needed(Means(inside=True, ends=False, changes=each))} for each in means]
    assert asked[0] - asked[1] >= {"secrets", "roles"}
    assert "`source` is a file" in CredentialExpire("/t", "/old", secret=True).problems()[0]


def pod(**more: Any) -> dict[str, Any]:
    mounts = [{"name": "v", "mountPath": "/secret"}, {"name": "v", "mountPath": "/fixed", "subPath": "token"}]
    volumes = [{"name": "v", "secret": {"secretName": "hub", **more}}]
    return {"metadata": {"uid": "u"}, "spec": {"containers": [{"name": "c", "volumeMounts": mounts}], "volumes": volumes}}


def test_which_value_a_file_comes_from() -> None:
    assert secret_of(pod(), "c", "/secret/token") == ("hub", "token")
    assert secret_of(pod(items=[{"key": "token", "path": "deep/t"}]), "c", "/secret/deep/t") == ("hub", "token")
    for path in ("/secret/token", "/elsewhere/token"):
        assert secret_of(pod(items=[{"key": "token", "path": "t"}]), "c", path)[1] == ""
    assert secret_of(pod(), "c", "/fixed") == ("", "")


@pytest.mark.parametrize(
    ("spec", "uses"),
    [
        ({"volumes": [{"secret": {"secretName": "hub"}}]}, True),
        ({"volumes": [{"projected": {"sources": [{"secret": {"name": "hub"}}]}}]}, True),
        ({"containers": [{"envFrom": [{"secretRef": {"name": "hub"}}]}]}, True),
        ({"initContainers": [{"env": [{"name": "T", "valueFrom": {"secretKeyRef": {"name": "hub"}}}]}]}, True),
        ({"volumes": [{"configMap": {"name": "hub"}}, {"secret": {"secretName": "other"}}]}, False),
        ({"containers": [{"env": [{"name": "hub", "value": "hub"}]}]}, False),
    ],
)
def test_who_reads_a_secret(spec: dict[str, Any], uses: bool) -> None:
    assert uses_secret({"spec": {"containers": [], **spec}}, "hub") is uses
