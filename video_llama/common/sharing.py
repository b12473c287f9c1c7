"""Stages that are another branch's: `stages: {projection: {share: image.projection}}`.

One module stands in both branches, under the name it has in its owner. Which stages are shared is
told from the plain containers, so that every mistake is named before anything is built.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from video_llama.common.registry import did_you_mean
from video_llama.common.schema import BranchConfig

SHARE = "share"

Shares = dict[str, dict[str, str]]
"""By branch and stage, the name of the owner's stage: `branch.stage`."""


def find_shares(branches: object, *, problems: list[str]) -> Shares:
    """Return the stages that are shared; mistakes are appended to `problems`.

    Args:
        branches: the section `model.branches`, merged.
        problems: every mistake is appended to it.
    """
    nodes = {name: _stages(branch) for name, branch in _mapping(branches).items()}
    shares: Shares = {name: {} for name in nodes}
    for name, stages in nodes.items():
        for stage, node in stages.items():
            owner = _mapping(node).get(SHARE)
            if owner is None:
                continue
            where = f"model.branches.{name}.stages.{stage}"
            found = [*_bad_owner(owner, nodes, branches=_mapping(branches)), *_own_keys(node)]
            problems += [f"{where}.{text}" for text in found]
            if not found:
                problems += [f"{where}.{text}" for text in _chain(f"{name}.{stage}", nodes)]
            shares[name][stage] = str(owner)
    return shares


def with_shares(
    branches: Mapping[str, BranchConfig], *, shares: Shares, nodes: Mapping[str, Any]
) -> dict[str, BranchConfig]:
    """Return branches with the stages that they share in their places.

    Args:
        branches: with the stages of their own.
        shares: as `find_shares` returned them, without mistakes.
        nodes: the containers they were read from, for the order of the stages.
    """
    linked = {}
    for name, branch in branches.items():
        stages = {}
        for stage in _stages(nodes[name]):
            owner = shares[name].get(stage)
            if owner is None:
                if stage in branch.stages:
                    stages[stage] = branch.stages[stage]
                continue
            lender, lent = owner.split(".")
            part = branches[lender].stages[lent]
            stages[stage] = replace(
                part,
                share=owner,
                weights=None,
                trainable=False,
                lr=None,
                gradient_checkpointing=False,
            )
        linked[name] = replace(branch, stages=stages)
    return linked


def _bad_owner(
    owner: object, nodes: Mapping[str, Mapping[str, Any]], *, branches: Mapping[str, Any]
) -> Iterator[str]:
    """Say why a stage cannot be shared with the one that is named."""
    lender, dot, lent = owner.partition(".") if isinstance(owner, str) else ("", "", "")
    if not dot or "." in lent:
        yield f"share: expected branch.stage, e.g. image.projection, found {owner!r}"
        return
    known = [
        f"{name}.{stage}"
        for name, stages in nodes.items()
        for stage, node in stages.items()
        if _mapping(node).get("type") is not None
    ]
    gone = None
    if lender in branches and branches[lender] is None:
        gone = f"model.branches.{lender}"
    elif lender in nodes and lent in nodes[lender] and nodes[lender][lent] is None:
        gone = f"model.branches.{lender}.stages.{lent}"
    if gone:
        yield (
            f"share: '{owner}' is not built, {gone} is null; give this stage a type and keys of "
            "its own in place of share, or leave its owner in"
        )
    elif lender not in nodes or lent not in nodes[lender]:
        kind = "branch" if lender not in nodes else "stage"
        yield (
            f"share: there is no {kind} for '{owner}'{did_you_mean(str(owner), known)} "
            f"(there are: {', '.join(known) or 'none'})"
        )


def _own_keys(node: Mapping[str, Any]) -> Iterator[str]:
    """Say which keys stand beside `share`; those set to null do not count."""
    own = [str(key) for key, value in node.items() if key != SHARE and value is not None]
    if own:
        yield (
            f"share: '{node[SHARE]}' is used as it is, and {', '.join(own)} would be for a stage "
            f"of its own; set {'them' if len(own) > 1 else 'it'} at "
            f"model.branches.{str(node[SHARE]).replace('.', '.stages.', 1)}, or set share: null"
        )


def _chain(stage: str, nodes: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """Say that the owner of a stage shares itself."""
    lender, lent = _owner(stage, nodes).split(".")
    further = _mapping(nodes[lender][lent]).get(SHARE)
    if further is None:
        return
    path = [stage, f"{lender}.{lent}"]
    while isinstance(further, str) and further not in path:
        path.append(further)
        name, _, last = further.partition(".")
        further = _mapping(nodes.get(name, {}).get(last)).get(SHARE)
    if further is None:
        yield f"share: '{path[1]}' is shared itself; name its owner: share: {path[-1]}"
    else:
        yield (
            f"share: {' shares '.join([*path, str(further)])}, a circle without a stage that is "
            "built; give one of them a type in place of share"
        )


def _owner(stage: str, nodes: Mapping[str, Mapping[str, Any]]) -> str:
    name, _, last = stage.partition(".")
    return str(nodes[name][last][SHARE])


def _stages(branch: object) -> Mapping[str, Any]:
    return _mapping(_mapping(branch).get("stages"))


def _mapping(node: object) -> Mapping[str, Any]:
    """Return a node that is a mapping; what else stands there is another's to complain about."""
    return {str(key): value for key, value in node.items()} if isinstance(node, Mapping) else {}
