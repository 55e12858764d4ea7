"""Queues failed images again: each file goes from failed/ back into the inbox, under a name that is free there."""

import argparse
import sys

from daemon.app import existing_catalogue, inbox, roots
from daemon.catalogue import Queue
from daemon.config import Config
from daemon.errors import DarkroomError
from daemon.filing.recovery import Requeue
from daemon.phrases import counted


def main(config: Config, args: argparse.Namespace) -> int:
    """Put each file back into the inbox; 1 when one can't be."""
    queue = Queue(existing_catalogue(config))
    requeue = Requeue(queue, inbox(config), roots(config), config.folders.state)
    wanted = queue.failures() if args.failed else args.ids
    refused = 0
    for image_id in wanted:
        try:
            requeue.retry(image_id)
        except DarkroomError as reason:
            print(reason, file=sys.stderr)
            refused += 1
    print(f"{counted(len(wanted) - refused, 'image')} queued again")
    return 1 if refused else 0
