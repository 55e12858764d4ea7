"""Moves the library to another template, or says what that would move. A running darkroom goes on meanwhile."""

import argparse
import json
import sys
from contextlib import closing
from dataclasses import asdict
from itertools import count

from daemon.app import decoding_limits, existing_catalogue, mover, sidecars
from daemon.captions.settings import caption_settings
from daemon.catalogue.settings import Settings
from daemon.commands.plan import checked
from daemon.commands.progress import watched
from daemon.config import Config
from daemon.decoding.sandbox import Sandbox
from daemon.errors import Rejected
from daemon.files import lock
from daemon.files.mounts import FolderCheck
from daemon.files.names import display
from daemon.filing.follower import following
from daemon.filing.refile import Refile, RefilePlan, Relocation
from daemon.phrases import counted


def main(config: Config, args: argparse.Namespace) -> int:
    """Move what lies elsewhere than the template wants it; 1 when some of it can't be moved."""
    template = config.filing.template if args.template is None else checked(args.template)
    catalogue = existing_catalogue(config)
    settings = Settings(catalogue)
    FolderCheck({"library": config.folders.library}, settings, 0).check_present()
    with catalogue.session(), closing(Sandbox(decoding_limits(config))) as sandbox:
        moving = mover(config, catalogue, sidecars(config, catalogue, sandbox))
        is_private = caption_settings(config).is_private
        work = Refile(catalogue, moving, template, everything=args.all, is_private=is_private)
        if args.dry_run:
            return _report(_planned(work), [], dry=True, as_json=args.json)
        # A walk would find photos gone that are on their way.
        with following(config.folders.state):
            moving.resume()
            plan = _planned(work)
            moved: list[Relocation] = []
            try:
                with watched("moving", len(plan.moves)) as step:
                    for number, one in enumerate(plan.moves, 1):
                        _move(work, one, plan, moved)
                        step(number)
            finally:
                code = _report(plan, moved, dry=False, as_json=args.json)
    _remind(config, settings, template)
    return code


def _planned(work: Refile) -> RefilePlan:
    with watched("looking", work.total()) as step:
        seen = count(1)
        return work.plan(lambda: step(next(seen)))


def _move(work: Refile, one: Relocation, plan: RefilePlan, moved: list[Relocation]) -> None:
    try:
        new = work.move(one)
    except Rejected as reason:
        plan.left.append((one.old, str(reason)))
        return
    if new == one.old:
        plan.right += 1
    else:
        moved.append(one if new == one.new else Relocation(one.image_id, one.old, new))


def _report(plan: RefilePlan, moved: list[Relocation], *, dry: bool, as_json: bool) -> int:
    """Print what was moved, or would be; return 1 when something can't be."""
    moves = plan.moves if dry else moved
    if as_json:
        document = {
            "moved": [asdict(one) for one in moves],
            "right": plan.right,
            "kept": plan.kept,
            "left": [{"path": path, "reason": reason} for path, reason in plan.left],
        }
        print(json.dumps({"dry_run": dry, **document}, indent=2))
        return 1 if plan.left else 0
    for one in moves if dry else ():
        files = f", with {counted(len(one.beside), 'file')} beside it" if one.beside else ""
        print(f"{display(one.old)} → {display(one.new)}{files}")
    for path, reason in plan.left:
        print(f"library/{display(path)} stays: {reason}", file=sys.stderr)
    counts = [f"{counted(len(moves), 'photo')} {'would move' if dry else 'moved'}"]
    counts += [counted(plan.right, "lies right already", "lie right already")] if plan.right else []
    where_put = ("stays where you put it (--all moves it, too)", "stay where you put them (--all moves them, too)")
    counts += [counted(plan.kept, *where_put)] if plan.kept else []
    counts += [f"{len(plan.left):,} can't be moved"] if plan.left else []
    print(", ".join(counts) + ("; nothing was changed" if dry else ""))
    return 1 if plan.left else 0


def _remind(config: Config, settings: Settings, template: str) -> None:
    """Say where new photos go by another template than those that were moved."""
    if template != config.filing.template:
        key = f"template = {json.dumps(template, ensure_ascii=False)}"
        print(f"to file new photos like this, write under [filing] into {config.file.name}: {key}")
    elif lock.running(config.folders.state) is not None and settings.get("template") not in {template, None}:
        print(f"the running darkroom files new photos by {settings.get('template')} still: restart it", file=sys.stderr)
