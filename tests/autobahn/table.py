"""Prints what Autobahn's test suite found, one line for each group, and fails on a case that did not pass in each role.

    table.py AGENT FOLDER-OF-SERVER FOLDER-OF-CLIENT

A case passes with OK, NON-STRICT or INFORMATIONAL; with UNIMPLEMENTED only in the groups of permessage-deflate, which the
hub refuses to negotiate. So does its close.
"""

import collections
import json
import pathlib
import sys

PASSED = {"OK", "NON-STRICT", "INFORMATIONAL"}
COMPRESSION = {"12", "13"}


def results(folder, agent):
    return json.loads((pathlib.Path(folder) / "index.json").read_text())[agent]


def passed(case, result):
    allowed = PASSED | ({"UNIMPLEMENTED"} if case.split(".")[0] in COMPRESSION else set())
    return result["behavior"] in allowed and result["behaviorClose"] in allowed


def order(case):
    return [int(part) for part in case.split(".")]


def main(agent, *folders):
    roles = {role: results(folder, agent) for role, folder in zip(("server", "client"), folders)}
    groups = collections.defaultdict(collections.Counter)
    faults = []
    for role, cases in roles.items():
        for case, result in cases.items():
            group = groups[int(case.split(".")[0]), role]
            good = passed(case, result)
            group["cases"] += 1
            group[result["behavior"] if good else "FAILED"] += 1
            if not good:
                faults.append((order(case), f"{role} {case}: {result['behavior']}, close {result['behaviorClose']}"))
    columns = ["cases", "OK", "NON-STRICT", "INFORMATIONAL", "UNIMPLEMENTED", "FAILED"]
    print(f"{'group':>5}  {'role':8}" + "".join(f"{column:>15}" for column in columns))
    for (group, role), counts in sorted(groups.items(), key=lambda item: (item[0][0], item[0][1] != "server")):
        print(f"{group:>5}  {role:8}" + "".join(f"{counts[column]:>15}" for column in columns))
    for _, fault in sorted(faults):
        print(fault)
    one_sided = set(roles["server"]) ^ set(roles["client"])
    if one_sided:
        print(f"run in one role only: {', '.join(sorted(one_sided, key=order))}")
    total = sum(counts["cases"] for counts in groups.values())
    print(f"{total - len(faults)} passed, {len(faults)} failed")
    return 1 if faults or one_sided or not total else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
