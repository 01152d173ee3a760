# SPDX-License-Identifier: Apache-2.0
"""Makes the API reference with Doxygen. Fails at a comment that Doxygen cannot read, at a public class, enumeration or free
function without a ///, and when more members than UNDOCUMENTED have neither a /// nor a comment behind them."""
import argparse
import re
import subprocess
import sys
from pathlib import Path

UNDOCUMENTED = 333  # members such as data() and rows(), whose name says all; lower it when it has become less


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("doxyfile", type=Path, help="the configured docs/Doxyfile.in")
    parser.add_argument("--doxygen", default="doxygen")
    arguments = parser.parse_args()
    settings = dict(re.findall(r'^(\w+) *= *"?([^"\n]*)"?$', arguments.doxyfile.read_text(), re.M))
    log = Path(settings["WARN_LOGFILE"])
    log.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run([arguments.doxygen, arguments.doxyfile], check=True)
    warnings = sorted(set(log.read_text().splitlines()))
    member = re.compile(r"(?:Member .* of (?:class|struct|union)|\((?:variable|typedef)\) of) .* is not documented")
    special = re.compile(r"=default|operator=\(|&&other")  # copies and moves say what they do
    members = [line for line in warnings if member.search(line) and not special.search(line)]
    specialization = re.compile(r"Compound \S+< .* is not documented")  # its template is documented
    errors = [line for line in warnings if not member.search(line) and not specialization.search(line)]
    if len(members) > UNDOCUMENTED:
        errors += members + [f"{len(members)} members are not documented, but {UNDOCUMENTED} may be"]
    print("\n".join(errors) or f"the reference is in {settings['OUTPUT_DIRECTORY']}/html; "
          f"{len(members)} members of classes are not documented")
    sys.exit(bool(errors))


if __name__ == "__main__":
    main()
