"""Say of all that darkroom needs whether it is there, a line each, and how to mend what is not."""

import argparse
import json

from daemon.config import Config
from daemon.doctor.rounds import everything


def main(config: Config, args: argparse.Namespace) -> int:
    """Print the findings; 1 when anything is not well."""
    findings = []
    for finding in everything(config):
        findings.append(finding)
        if not args.json:
            print(f"{'ok  ' if finding.ok else 'MEND'}  {finding.subject}: {finding.text}", flush=True)
            if finding.mend:
                print(f"      → {finding.mend}", flush=True)
    faults = [finding for finding in findings if not finding.ok]
    if args.json:
        print(json.dumps([{"ok": one.ok, **vars(one)} for one in findings], indent=2))
    elif faults:
        print(f"\n{len(faults)} of {len(findings)} to mend")
    return 1 if faults else 0
