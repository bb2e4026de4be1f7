"""What the bed's commands have in common: options, and bringing a bed up."""
import argparse
import os
import re
import sys

from outside import kernel
from outside.message import BedError, say
from outside.slot import MAX_SLOTS, Slot, TREE

UNITS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600}


class Parser(argparse.ArgumentParser):
    """Wrong options end with 125, as every failure of the bed does: 2 may be the command's own status."""

    def error(self, message):
        say(f"{message}\n{self.format_usage().rstrip()}")
        sys.exit(125)


def duration_s(text):
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(ms|s|m|h)", text)
    if not match or float(match[1]) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no duration: 300s, 5m")
    return float(match[1]) * UNITS[match[2]]


def memory(text):
    match = re.fullmatch(r"(\d+)([MG])", text)
    mebibytes = int(match[1]) * (1024 if match[2] == "G" else 1) if match else 0
    if not 1024 <= mebibytes <= 1024 * 1024:
        raise argparse.ArgumentTypeError(f"{text!r} is no memory size from 1G up: 6G, 4096M")
    return text


def slot_number(text):
    if not text.isdigit() or int(text) >= MAX_SLOTS:
        raise argparse.ArgumentTypeError(f"{text!r} is no slot: 0 to {MAX_SLOTS - 1}")
    return int(text)


def add_slot(parser):
    parser.add_argument("--slot", type=slot_number, default=os.environ.get("SPORE_BED_SLOT", "0"),
                        help="which bed of this tree; two side by side use two cores (default $SPORE_BED_SLOT or 0)")


def add_boot_options(parser):
    add_slot(parser)
    parser.add_argument("--memory", type=memory, default="6G", help="memory of a bed that is booted (6G)")
    parser.add_argument("--idle", type=duration_s, default="30m", help="a bed unused for this long stops (30m)")
    parser.add_argument("-v", "--verbose", action="store_true", help="say more; log the whole boot to console.log")


def home_directory():
    return os.path.abspath(os.environ.get("SPORE_BED_HOME") or f"{TREE}/build/bed/home")


def boot(slot, options):
    """Boots the slot's bed; the caller holds its lock and knows that it is down."""
    if os.environ.get("SPORE_BED"):
        raise BedError("this is the inside of a bed already (SPORE_BED is set)")
    if os.geteuid() != 0:
        raise BedError("virtiofsd needs root to serve the host's file tree: run it as root")
    found = kernel.find(TREE)
    say(f"booting slot {slot.number} (5-7 s)")
    if options.verbose:
        say(f"kernel {found.release}, console in {slot.path('console.log')}")
    slot.boot({"memory": options.memory, "idle_s": options.idle, "verbose": options.verbose,
               "home": home_directory()})


def make_slot(options):
    slot = Slot(options.slot)
    slot.create()
    return slot
