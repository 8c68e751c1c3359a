"""The `rejoinder` command: reads flags, builds settings, hands over. Heavy modules are loaded by name, when asked for.

Exit codes: 0 done, 1 the thing asked for failed, 2 wrong use, 130 interrupted. Errors are one line on stderr;
`REJOINDER_DEBUG=1` shows tracebacks.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NoReturn

from bot.errors import ConfigError, DomainError, RejoinderError
from bot.settings import PROFILES, Settings, load_settings, wants_tracebacks

Handler = Callable[[Settings, argparse.Namespace], int]

BENCHES: Mapping[str, str] = {
    "learn": "online_learning.bench.learn:main",
    "ladder": "online_learning.bench.ladder:main",
    "gate": "online_learning.bench.gate_curve:main",
    "crash": "online_learning.bench.crash:main",
    "swap": "online_learning.bench.swap_engine:main",
    "swap-service": "online_learning.bench.swap:main",
    "text": "online_learning.bench.serve_text:main",
    "latency": "online_learning.bench.latency:main",
    "serve": "online_learning.bench.serve:main",
    "idle": "online_learning.bench.idle:main",
    "speed": "online_learning.bench.speed:main",
    "robust": "online_learning.bench.robust:main",
    "credit": "online_learning.bench.credit:main",
    "peft": "online_learning.bench.peft:main",
    "reward": "online_learning.bench.reward:main",
    "style": "online_learning.bench.style:main",
    "words": "online_learning.bench.words:main",
    "inbox": "online_learning.bench.inbox:main",
    "groups": "online_learning.bench.groups:main",
}
"""Benchmark -> where it is."""
LATER = ("export", "erase")
ALGORITHMS = ("ppo", "a2c", "reinforce", "trpo", "ilql", "imitation", "kto", "likelihood")
NOISE = ("clean", "mild", "realistic")
LEARN_SETTINGS = ("plain", "drift", "scope", "second", "wording")
"""What `bench learn` can measure; made in `online_learning.bench.learn.KINDS`."""
_ALONE = ("-h", "--help", "--version")
_PASSED_ON = ("home", "domain", "profile", "seed")


class Parser(argparse.ArgumentParser):
    """Raises ConfigError where argparse would print its usage and leave; knows no abbreviations."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"allow_abbrev": False, **options})

    def error(self, message: str) -> NoReturn:
        """One clear line."""
        raise ConfigError(f"{message} (try {self.prog} --help)")


def main(argv: Sequence[str] | None = None) -> int:
    """The exit code of the command."""
    try:
        return _run(sys.argv[1:] if argv is None else argv)
    except KeyboardInterrupt:
        return 130
    except (RejoinderError, OSError) as error:
        if wants_tracebacks():
            raise
        print(f"rejoinder: {error}", file=sys.stderr)
        return 2 if isinstance(error, ConfigError | DomainError) else 1


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """All options of a command line. Global ones may stand anywhere. Raises ConfigError."""
    found, rest = _global_options().parse_known_args(argv)
    if rest and rest[0].startswith("-") and rest[0] not in _ALONE:
        raise ConfigError(f"{rest[0]}: unknown option (try rejoinder --help)")
    if rest and rest[0] in LATER:
        raise ConfigError(f"{rest[0]}: not in this version")
    return _commands().parse_args(rest, found)


def settings_of(args: argparse.Namespace) -> Settings:
    """The settings that these options ask for. Raises ConfigError."""
    named = {name: getattr(args, name, None) for name in ("home", "domain", "port", "seed", "profile", "host")}
    return load_settings(_nest(args.set or []) | {name: value for name, value in named.items() if value is not None})


def _run(argv: Sequence[str]) -> int:
    try:
        args = parse(argv)
    except SystemExit as left:  # --help and --version print and leave
        return int(left.code or 0)
    args.passed_on = _passed_on(args)
    settings = settings_of(args)
    return HANDLERS[args.command](settings, args)


def _load(where: str) -> Callable[..., int]:
    """A function by `module:name`. Raises RejoinderError when this installation lacks it."""
    module, _, name = where.partition(":")
    try:
        return getattr(importlib.import_module(module), name)  # type: ignore[no-any-return]
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] not in ("bot", "online_learning", "ui"):
            raise
        raise RejoinderError(f"{module} is not in this installation ({error})") from error


def _by_name(where: str) -> Handler:
    def load_and_call(settings: Settings, args: argparse.Namespace) -> int:
        return _load(where)(settings, args)

    return load_and_call


def _serve(settings: Settings, _args: argparse.Namespace) -> int:
    return _load("bot.compose:run_server")(settings)


def _bench(settings: Settings, args: argparse.Namespace) -> int:
    return _load(BENCHES[args.bench])(settings, args)


HANDLERS: Mapping[str, Handler] = {
    "up": _by_name("bot.up:main"),
    "serve": _serve,
    "learn": _by_name("online_learning.process:main"),
    "simulate": _by_name("online_learning.simulate.run:main"),
    "eval": _by_name("online_learning.evaluate:main"),
    "bench": _bench,
    "rules": _by_name("bot.feedback.rules_command:main"),
    "versions": _by_name("bot.policy.versions_command:command"),
    "doctor": _by_name("bot.doctor:main"),
}


def _nest(pairs: Sequence[str]) -> dict[str, Any]:
    """`["learn.quorum=1"]` -> `{"learn": {"quorum": "1"}}`. Raises ConfigError."""
    nested: dict[str, Any] = {}
    for pair in pairs:
        key, given, value = pair.partition("=")
        section, _, field = key.partition(".")
        if not given or not section:
            raise ConfigError(f"--set: expected KEY=VALUE, got {pair!r}")
        if field:
            nested.setdefault(section, {})[field] = value
        else:
            nested[section] = value
    return nested


def _passed_on(args: argparse.Namespace) -> list[str]:
    """The global options as given, for child processes; the port and host are settled by the parent."""
    options = []
    for name in _PASSED_ON:
        if (value := getattr(args, name)) is not None:
            options += [f"--{name}", str(value)]
    for pair in args.set or []:
        options += ["--set", pair]
    return options


def _global_options(**options: Any) -> Parser:
    parser = Parser(prog="rejoinder", add_help=False, **options)
    group = parser.add_argument_group("global options (before or after the command)")
    group.add_argument("--home", metavar="DIR", help="database, versions, logs (default ~/.rejoinder)")
    group.add_argument("--domain", metavar="NAME|DIR", help="a shipped domain or a folder (default bank)")
    group.add_argument("--port", type=_number("port", 0, 65535), metavar="N", help="default 7860; 0: any free one")
    group.add_argument("--seed", type=_number("seed", 0, 2**63 - 1), metavar="N", help="reproduce ids and sampling")
    group.add_argument("--profile", choices=tuple(PROFILES), help="demo: one person can watch it learn")
    group.add_argument("--json", action="store_true", help="one JSON object as the last line on stdout")
    group.add_argument("--set", action="append", metavar="KEY=VALUE", help="any setting: learn.quorum=1")
    return parser


def _commands() -> Parser:
    shown = _global_options(argument_default=argparse.SUPPRESS)  # read in the first pass; here only for --help
    parser = Parser(prog="rejoinder", description="A chatbot that learns online from thumbs.", parents=[shown])
    parser.add_argument("--version", action="version", version=_version())
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for add in (_add_running, _add_measuring, _add_keeping):
        add(commands)
    return parser


def _add_running(commands: Any) -> None:
    up = commands.add_parser("up", help="server and learner under one supervisor")
    up.add_argument("--host", help="address to listen on (default 127.0.0.1)")
    up.add_argument("--open", action="store_true", help="open the chat page when ready")
    up.add_argument("--no-learn", action="store_true", help="without the learner")
    serve = commands.add_parser("serve", help="the server alone")
    serve.add_argument("--host", help="address to listen on (default 127.0.0.1)")
    commands.add_parser("learn", help="the learner alone")


def _add_measuring(commands: Any) -> None:
    simulate = commands.add_parser("simulate", help="simulated users talk and vote; the learner learns")
    _add_dataset(simulate)
    simulate.add_argument("--out", type=Path, metavar="DIR", help="where the curve and the report go")
    simulate.add_argument("--turns", type=_number("turns", 1, 10**9), default=1000, metavar="N")
    simulate.add_argument("--noise", choices=NOISE, default="mild", help="how well the thumbs tell the truth")
    simulate.add_argument("--rate", type=_share, default=0.2, metavar="R", help="share of replies that get a thumb")
    simulate.add_argument("--async", dest="asynchronous", action="store_true", help="do not wait for the learner")
    simulate.add_argument("--eval", type=_file, metavar="F.jsonl", help="labelled questions to evaluate on")
    simulate.add_argument("--taste", metavar="NAME", help="the style of generated replies that users like")
    simulate.add_argument("--reply", choices=("approved", "generated"), default="approved")
    simulate.add_argument("--seeds", type=_number("seeds", 1, 1000), default=1, metavar="K", help="repeat K times")
    evaluate = commands.add_parser("eval", help="accuracy of a version on labelled questions")
    _add_dataset(evaluate)
    evaluate.add_argument(
        "--kb", type=_file, action="append", default=[], metavar="F.jsonl", help="articles made of these rows instead"
    )
    evaluate.add_argument("--version", metavar="V", help="default: the one that serves")
    bench = commands.add_parser("bench", help="measure one thing")
    bench.add_argument("bench", choices=tuple(BENCHES))
    bench.add_argument(
        "--kills", type=_number("kills", 1, 10**6), default=50, metavar="N", help="crash: of each process"
    )
    bench.add_argument(
        "--messages", type=_number("messages", 32, 10**6), default=200, metavar="N", help="latency: asked"
    )
    bench.add_argument("--rows", type=_number("rows", 2, 10**6), default=300, metavar="N", help="gate: held out, rated")
    bench.add_argument("--sims", type=_number("sims", 1, 10**6), default=400, metavar="N", help="gate: draws a cell")
    _add_speed(bench)
    _add_serving(bench)
    _add_learning(bench)
    bench.add_argument("--version", metavar="V", help="robust: default is the one that serves")
    bench.add_argument(
        "--tiny",
        action="store_true",
        help="crash, swap, swap-service, text, latency, serve, idle: models of random weights",
    )
    _add_dataset(bench)


def _add_learning(bench: argparse.ArgumentParser) -> None:
    bench.add_argument("--online", type=_file, metavar="F.jsonl", help="learn, ladder: questions that are asked")
    bench.add_argument("--eval", type=_file, metavar="F.jsonl", help="learn, style: questions it is judged by")
    bench.add_argument(
        "--kb", type=_file, action="append", default=[], metavar="F.jsonl", help="learn, robust, groups: the articles"
    )
    bench.add_argument(
        "--warmstart", type=_file, metavar="F.jsonl", help="learn: labels that are learned before the stream"
    )
    bench.add_argument("--setting", choices=LEARN_SETTINGS, default="plain", help="learn: what happens in the stream")
    bench.add_argument(
        "--oos", type=_file, action="append", default=[], metavar="F", help="learn: out-of-scope questions"
    )
    bench.add_argument("--algorithm", choices=ALGORITHMS, default="likelihood", help="learn: what the learner follows")
    bench.add_argument(
        "--noise", choices=NOISE, default="mild", help="learn, style: how well the thumbs tell the truth"
    )
    bench.add_argument("--rate", type=_part, default=1.0, metavar="R", help="learn: share of replies with a thumb")
    bench.add_argument(
        "--asked", type=_part, default=0.0, metavar="R", help="learn: chance of a thumb where one is asked for"
    )
    bench.add_argument(
        "--turns", type=_number("turns", 1, 10**9), metavar="N", help="learn, style, words: questions asked"
    )
    bench.add_argument("--thumbs", type=_number("thumbs", 1, 10**9), metavar="N", help="learn: ends at so many")
    bench.add_argument(
        "--seeds", type=_number("seeds", 1, 1000), default=1, metavar="K", help="learn, style, words: repeat K times"
    )


def _add_speed(bench: argparse.ArgumentParser) -> None:
    bench.add_argument("--vllm", type=Path, metavar="PYTHON", help="text: of an environment with vLLM, a peer")
    numbers = {
        "decisions": (1000, 10**8, 10**6, "speed: in the largest store"),
        "repeats": (1, 1000, 5, "speed, inbox, text: of each timing; serve, idle: rounds"),
        "texts": (1, 10**4, 16, "speed: written replies"),
        "conversations": (1, 10**7, 100_000, "inbox: stored"),
    }
    for name, (low, high, default, what) in numbers.items():
        number = _number(name, low, high)
        bench.add_argument(f"--{name}", type=number, default=default, metavar="N", help=what)


def _add_serving(bench: argparse.ArgumentParser) -> None:
    bench.add_argument("--swaps", type=_number("swaps", 1, 10**6), default=20, metavar="N", help="swap: new versions")
    bench.add_argument(
        "--streams", type=_number("streams", 1, 1000), default=8, metavar="N", help="swap: at the same time"
    )
    bench.add_argument("--chats", type=_number("chats", 1, 10**4), metavar="N", help="serve: default 1, 8 and 32")
    bench.add_argument("--text", action="store_true", help="serve: generated replies")
    bench.add_argument("--sockets", type=_number("sockets", 1, 10**5), default=3000, metavar="N", help="idle: open")
    bench.add_argument("--round-s", type=_seconds, default=4.0, metavar="S", help="serve, idle: length of a round")


def _add_dataset(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dataset", type=_file, metavar="F.jsonl", help='rows {"text", "answer"}')


def _add_keeping(commands: Any) -> None:
    versions = commands.add_parser("versions", help="list, roll back, promote, try on some conversations, freeze")
    acts = versions.add_subparsers(dest="versions_command", required=True, metavar="ACT")
    for act in ("list", "rollback", "promote", "canary", "withdraw", "freeze", "unfreeze"):
        parser = acts.add_parser(act)
        if act == "canary":
            parser.add_argument("--share", type=_share, metavar="S", help="default: rollout.canary_share")
        if act in ("rollback", "promote", "canary"):
            parser.add_argument("version", nargs="?" if act == "rollback" else None, metavar="VERSION")
        parser.add_argument("--reason", default="", help="kept in the audit log")
    rules = commands.add_parser("rules", help="check reward rules, try them on history, put them in force")
    rules.add_argument("rules_command", choices=("check", "backtest", "apply", "log", "schema"))
    rules.add_argument("file", nargs="?", metavar="FILE", help="default: the domain's rewards.yml")
    rules.add_argument("--author", metavar="NAME", help="apply: who puts the rules in force")
    rules.add_argument("--reason", metavar="TEXT", help="apply: why")
    commands.add_parser("doctor", help="check what Rejoinder needs here")
    for later in LATER:
        commands.add_parser(later, help="not in this version")


def _number(name: str, low: int, high: int) -> Callable[[str], int]:
    def read(text: str) -> int:
        if not text.isascii() or not text.isdigit() or not low <= int(text) <= high:
            raise argparse.ArgumentTypeError(f"{name}: expected a whole number from {low} to {high}, got {text!r}")
        return int(text)

    return read


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0.0 < seconds <= 3600.0:
        raise argparse.ArgumentTypeError(f"expected seconds above 0, up to 3600, got {text!r}")
    return seconds


def _share(text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = -1.0
    if not 0.0 < share <= 1.0:
        raise argparse.ArgumentTypeError(f"expected a number above 0, up to 1, got {text!r}")
    return share


def _part(text: str) -> float:
    """0 or a share."""
    return 0.0 if text in ("0", "0.0") else _share(text)


def _file(text: str) -> Path:
    path = Path(text)
    if not path.is_file():
        raise argparse.ArgumentTypeError(f"expected a file, got {text!r}")
    return path


def _version() -> str:
    try:
        return f"rejoinder {version('rejoinder')}"
    except PackageNotFoundError:
        return "rejoinder (not installed)"


if __name__ == "__main__":
    sys.exit(main())
