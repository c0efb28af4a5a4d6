# SPDX-License-Identifier: GPL-2.0
"""What make-tree, refresh, mail, threads and clean share.

The tree, build/linux, has the branch fuse-backing and these refs:

  refs/series/base    the kernel that the series is applied to
  refs/series/made    the commits that make-tree made of our files
  refs/series/wanted  only while the work tree is being changed: where to

build/refresh is there only while our files are being changed: how they will be.
"""

import hashlib
import os
import re
import sys
import typing
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))
from common import BUILD, PLAIN, TMP, TOOLS, die, read, run, say, write

HERE = TOOLS / "series"
TREE = BUILD / "linux"
STAGE = BUILD / "refresh"
BRANCH = "fuse-backing"
HEAD = "refs/heads/" + BRANCH
BASE, MADE, WANTED = (f"refs/series/{r}" for r in ("base", "made", "wanted"))

NOBODY = {f"GIT_{who}_{what}": value for who in ("AUTHOR", "COMMITTER")
          for what, value in (("NAME", "series"), ("EMAIL", "series@localhost"))}


def git_run(*args, tree=None, env=None, **kwargs):
    return run("git", "-C", str(tree or TREE), "-c", "gc.auto=0",
               "-c", "core.hooksPath=/dev/null", "-c", "core.quotePath=false",
               *args, env={**PLAIN, **(env or {})}, **kwargs)


def git(*args, **kwargs):
    """What git in build/linux says, without the newline at its end."""
    return git_run(*args, **kwargs).stdout.rstrip("\n")


def ref(name):
    """The commit it is at, nothing if there is none."""
    return git("rev-parse", "-q", "--verify", name + "^{commit}", check=False)


def series_files(top):
    """Our files that go to the kernel, in the folders they go to."""
    found = run("git", "-C", str(top), "rev-parse", "--show-toplevel",
                check=False).stdout.rstrip("\n")
    if found == str(top):
        names = run("git", "-C", str(top), "ls-files", "-z", "--cached",
                    "--others", "--exclude-standard").stdout.split("\0")
    else:
        names = [os.path.relpath(os.path.join(d, f), top)
                 for d, _, files in os.walk(top) for f in files]
    # A file that git knows can have been removed.
    return sorted(n for n in set(names)
                  if not n.startswith((".", "build/", "tools/out-of-tree/"))
                  and not n.endswith(("~", ".orig", ".rej"))
                  and ("/" in n or n.endswith(".patch"))
                  and os.path.lexists(top / n))


def new_files(patch):
    """The files that a patch names, between its --- and the diff. What is
    indented is a diffstat."""
    below = False
    for line in read(patch).split("\n"):
        if line.startswith(("diff -", "--- ")):
            return
        if below and line and not line[0].isspace():
            yield line
        below = below or line == "---"


def series_of(patch):
    """The number of its series."""
    return int(os.path.basename(patch)[1])


def read_series(top):
    """The patches in their order, each with the new files that it names."""
    patches, owner, numbers = [], {}, {}
    for name in series_files(top):
        if re.match(r"\d{4}-", os.path.basename(name)) and name.endswith(".patch"):
            patches.append(name)
        elif name.endswith(".patch"):
            die(f"{name}: the name of a patch begins with four digits")
        else:
            owner[name] = None
    if not patches:
        die(f"there are no patches in {top}")
    patches.sort(key=lambda p: (os.path.basename(p), p))
    for patch in patches:
        number = os.path.basename(patch)[:4]
        if number in numbers:
            die(f"{patch}: {numbers[number]} has the same number")
        numbers[number] = patch
        if number >= "0400":
            die(f"{patch}: 00NN is series 0, and so on to 03NN, there are no others")
        if "/" not in patch:
            die(f"{patch}: a patch stands in a folder")
        for file in new_files(top / patch):
            if file not in owner:
                die(f"{patch}: names {file}, which is not there")
            if owner[file]:
                die(f"{file}: is named by two patches, {owner[file]} and {patch}")
            owner[file] = patch
    for file, patch in owner.items():
        if not patch:
            die(f"unknown file {file}: list it below the --- of a patch, or remove it")
    return {p: [f for f in owner if owner[f] == p] for p in patches}


def why_not(errors):
    """What git apply complained about first."""
    for line in errors.splitlines():
        if line.startswith("error: ") and "while searching for" not in line:
            return line.removeprefix("error: ").removeprefix("patch failed: ")
    conflicts = re.search("^Applied patch to (.*) with conflicts", errors, re.M)
    return "it conflicts in " + conflicts[1] if conflicts else errors


def apply_patch(top, patch, files, tip, version, date):
    """The commit that a patch and the new files that it names make on tip. The
    index is at tip."""
    env = {**NOBODY, "GIT_INDEX_FILE": str(TMP / "index"),
           "GIT_AUTHOR_DATE": f"@{date} +0000", "GIT_COMMITTER_DATE": f"@{date} +0000"}
    mail = git_run("mailinfo", "--encoding=UTF-8", TMP / "body", TMP / "diff",
                   data=read(top / patch), check=False)
    if mail.returncode:
        die(f"{patch}: is not a mail")
    subject = re.search(r"^Subject: (.+)", mail.stdout, re.M)
    if not subject:
        die(f"{patch}: has no Subject: line")
    p = git_run("apply", "--cached", "--allow-empty", "--whitespace=nowarn", "-v",
                TMP / "diff", env=env, check=False)
    if p.returncode:
        die(f"{patch} does not apply to Linux {version}: {why_not(p.stderr)}")
    file = ""
    for line in p.stderr.splitlines():
        if line.startswith("Checking patch "):
            file = line.removeprefix("Checking patch ").rstrip(".")
        elif line.startswith("Hunk ") and "offset" in line:
            say(f"{patch}: {file}: {line}")
    if files:
        there = git("ls-tree", "-r", "--name-only", tip, "--", *files)
        if there:
            die(f"{there.splitlines()[0]}: is in Linux {version}, so it can only be changed by a patch")
        objects = git("hash-object", "-w", "--no-filters", "--stdin-paths",
                      data="".join(f"{top / f}\n" for f in files)).split()
        git("update-index", "--add", "--index-info", env=env, data="".join(
            f"{'100755' if os.access(top / f, os.X_OK) else '100644'} {o}\t{f}\n"
            for f, o in zip(files, objects)))
    tree = git("write-tree", env=env)
    if tree == git("rev-parse", tip + "^{tree}"):
        die(f"{patch}: changes nothing")
    message = git("stripspace", data=f"{subject[1]}\n\n{read(TMP / 'body')}")
    return git("commit-tree", tree, "-p", tip, data=message + "\n", env=env)


def build_series(top, base, version):
    """Commits of what top has, on base: a list of pairs, patch and commit.
    Neither the index nor the work tree of build/linux take part, and the same
    files give the same commits, so what was made once is not made again."""
    cache = TREE / ".git/made-before"
    known = dict(line.split() for line in read(cache).splitlines()) if cache.exists() else {}
    if known and git_run("cat-file", "-e", [*known.values()][-1], check=False).returncode:
        known = {}
    index, tip, commits = None, base, []
    date = int(git("log", "-1", "--format=%ct", base))
    for patch, files in read_series(top).items():
        for file in files:
            if (top / file).is_symlink():
                die(f"{file}: is a symbolic link")
        key = hashlib.sha256(tip.encode())
        for file in [patch] + files:
            content = (top / file).read_bytes()
            key.update(f"{file} {os.access(top / file, os.X_OK)} {len(content)} ".encode())
            key.update(content)
        key, date = key.hexdigest(), date + 1
        if key not in known:
            if index != tip:
                git("read-tree", tip, env={"GIT_INDEX_FILE": str(TMP / "index")})
            known[key] = index = apply_patch(top, patch, files, tip, version, date)
        tip = known[key]
        commits.append((patch, tip))
    # The last line is what is needed next.
    lines = [f"{k} {c}\n" for k, c in known.items() if c != tip] + [f"{key} {tip}\n"]
    write(f"{cache}.{os.getpid()}", "".join(lines[-1000:]))
    os.rename(f"{cache}.{os.getpid()}", cache)
    return commits


class Thread(typing.NamedTuple):
    """Mails that are sent together"""
    name: str               # of their folder in build/mail
    series: int
    onto: str               # the thread it stands on, None is the base
    commits: list           # as of build_series


def threads(commits):
    """Series 0, 1 and 2, the last two on the first. Of series 3 each fix, with the
    patches after it that change selftests only. Those in front of all fixes are
    a thread, too: what the tests share."""
    found = []
    for patch, commit in commits:
        n = series_of(patch)
        files = git("diff-tree", "-r", "--no-commit-id", "--name-only", commit).split("\n")
        test = all(f.startswith("tools/testing/selftests/") for f in files)
        if found and found[-1].series == n and (n < 3 or test):
            found[-1].commits.append((patch, commit))
            continue
        name = f"series-{n}" + ("/" + Path(patch).stem if n == 3 else "")
        onto = "series-0" if n in (1, 2) and found else None
        found.append(Thread(name, n, onto, [(patch, commit)]))
    return found


def put_onto(onto, commit, patch, message, env):
    """The commit on top of another one, whatever else is there."""
    env = {**env, "GIT_INDEX_FILE": str(TMP / "index")}
    parent, tree = git("rev-parse", onto + "^{tree}", commit + "^{tree}", env=env).split()
    if parent != git("rev-parse", commit + "^^{tree}"):
        git("read-tree", parent, env=env)
        diff = git_run("diff-tree", "-p", "--binary", "--full-index", commit + "^", commit)
        p = git_run("apply", "--cached", "--3way", "--whitespace=nowarn", env=env,
                    data=diff.stdout, check=False)
        if p.returncode:
            die(f"{patch} does not apply without the series before it: {why_not(p.stderr)}")
        tree = git("write-tree", env=env)
    return git("commit-tree", tree, "-p", onto, data=message, env=env)


def commits_since(base, tip):
    return git("rev-list", "--reverse", f"{base}..{tip}").split()


def kernel_version(commit):
    values = dict(re.findall(r"^(\w+) =[ ]*(.*)$", git(
        "cat-file", "blob", commit + ":Makefile"), re.M))
    return "{VERSION}.{PATCHLEVEL}.{SUBLEVEL}{EXTRAVERSION}".format(**values)


def changes(*args):
    """The files of build/linux with uncommitted changes."""
    return [line[3:] for line in git("status", "--porcelain", *args).splitlines()]


def on_branch():
    """Die unless build/linux is there and at rest."""
    if not (TREE / ".git").is_dir():
        die("there is no build/linux: make tree")
    if git_run("cat-file", "-e", BASE + "^{tree}", check=False).returncode:
        die("build/linux has lost the kernel it was made from: make tree")
    if git("symbolic-ref", "-q", "HEAD", check=False) != HEAD:
        die(f"build/linux is not on the branch {BRANCH} (git rebase --continue? git switch {BRANCH}?)")
