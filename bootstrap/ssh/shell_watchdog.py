"""The shell line that a command is wrapped in, so that it ends when whoever asked for it is gone.

sshd leaves a command running when its connection breaks, and a killed `fab` those that it started
on this machine. An abandoned `pip install` would then race with the one of the next attempt, so a
watcher beside the command reads the connection's standard input: first the bytes that are the
command's, then nothing, for as long as the asker is there. When that ends before the command does,
the watcher ends the whole process group.
"""

from __future__ import annotations

import shlex

from bootstrap.ssh.framing import PRINT_MARK, Mark

GRACE_SECONDS = 5

# $1: how many bytes of input the command gets, $2: the command, $3 and $4: the mark that its output
# is framed by. The first line through the pipe tells the right-hand side which watcher to end when
# the command is through. What the shell itself has to say about that is no output of the command's:
# hence descriptor 4. BASH_ENV would have every bash in it read a start-up file again.
WATCHER = (
    'trap "" TERM HUP INT; echo $$; head -c "$0" <&3; exec >/dev/null; cat <&3;'
    ' group=$(cut -d" " -f5 /proc/self/stat); kill -s TERM -- "-$group";'
    f' sleep {GRACE_SECONDS}; kill -s KILL -- "-$group"'
)
WRAPPER = (
    f'{PRINT_MARK} "$3" "$4"; {PRINT_MARK} "$3" "$4" >&2; unset BASH_ENV; '
    f"exec 3<&0 4>&2 2>/dev/null; sh -c '{WATCHER}' \"$1\" 4>&- | {{ exec 3<&-; read -r watcher;"
    ' sh -c "$2" 2>&4 4>&-; code=$?; kill -s KILL "$watcher"; exit $code; }'
)


def watched(command: str, stdin_bytes: int, mark: Mark) -> str:
    """The line that runs `command` with so much input, and no longer than its asker listens.

    In place of the shell that reads it, so that nothing of that one's (a trap) is printed behind.
    """
    words = ["sh", "-c", WRAPPER, "watched", str(stdin_bytes), command, *mark.halves]
    return f"exec {shlex.join(words)}"
