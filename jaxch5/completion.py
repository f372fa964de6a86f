"""`jaxch5 completion SHELL`: prints a script for Tab completion."""

from __future__ import annotations

import sys
from importlib import import_module
from shlex import quote
from string import Template
from typing import Any, Literal

from pydantic import Field
from pydantic_settings import CliPositionalArg

from jaxch5.__main__ import PROG, commands
from jaxch5.cli import Options, run
from jaxch5.config.command_line import options_read
from jaxch5.models.registry import architectures

# The script contains the possible words, so that pressing Tab does not start Python. If it has no
# word to offer, the shell completes file names.
SCRIPT = """\
_jaxch5() {
  local word="$${COMP_WORDS[COMP_CWORD]}" words=
  case "$$COMP_CWORD:$${COMP_WORDS[COMP_CWORD-1]}" in
    1:*) words=$COMMANDS ;;
    $VALUES
  esac
  if [ "$$COMP_CWORD" -gt 1 ] && [ "$${word:0:1}" = - ]; then
    case "$${COMP_WORDS[1]}" in
      $OPTIONS
    esac
  fi
  COMPREPLY=($$(compgen -W "$$words" -- "$$word"))
}
complete -o default -F _jaxch5 jaxch5
"""
HELP = "--help-all"
ZSH = "autoload -U +X compinit bashcompinit && compinit && bashcompinit\n"


class CompletionOptions(Options):
    """Print a script that makes the Tab key complete commands, options and their values.

    In bash, run this line: source <(jaxch5 completion bash). Add it to ~/.bashrc for all later
    shells. In zsh, write zsh instead of bash, and use ~/.zshrc.
    """

    shell: CliPositionalArg[Literal["bash", "zsh"]] = Field(description="shell: bash or zsh")


def completion(options: CompletionOptions) -> dict[str, Any]:
    """Prints the script, unless `--json` is given, and returns it."""
    values: dict[str, list[str]] = {}
    taken = []
    for name in commands():
        found = options_read(_options_of(name), f"{PROG} {name}")
        values |= {option: choices for option, choices in found.items() if choices}
        taken.append(f"{name}|{name.replace('_', '-')}) words={quote(' '.join([*found, HELP]))} ;;")
    values["--model.arch"] = list(architectures())
    parts = {
        "COMMANDS": quote(" ".join(commands())),
        "VALUES": "\n    ".join(
            f"*:{option}) words={quote(' '.join(choices))} ;;" for option, choices in values.items()
        ),
        "OPTIONS": "\n      ".join(taken),
    }
    script = ZSH * (options.shell == "zsh") + Template(SCRIPT).substitute(parts)
    if not options.json_output:
        print(script, end="")
    return {"script": script}


def _options_of(command: str) -> type[Options]:
    module = import_module(f"jaxch5.{command}")
    kinds = (one for one in vars(module).values() if isinstance(one, type))
    return next(
        one for one in kinds if one.__module__ == module.__name__ and issubclass(one, Options)
    )


def main() -> int:
    return run(completion, CompletionOptions, "jaxch5 completion")


if __name__ == "__main__":
    sys.exit(main())
