# What a reader of a chapter does with an editor, for the sessions that `labctl blog test` runs.

# curl shows its progress where its output goes to no terminal, and a reader's goes to one.
echo no-progress-meter >"$HOME/.curlrc"

# todo FILE TEXT: puts standard input in the place of the first line that has both "TODO" and TEXT, as far to the right.
todo() {
    python3 - "$1" "TODO" "$2" replace "$(cat)" <<<"$reader_edit"
}

# above FILE TEXT: puts standard input above the first line that has TEXT, as far to the right.
above() {
    python3 - "$1" "" "$2" above "$(cat)" <<<"$reader_edit"
}

reader_edit='
import sys
file, mark, text, how, new = sys.argv[1:]
lines = open(file).read().splitlines()
at = next((n for n, line in enumerate(lines) if mark in line and text in line), None)
if at is None:
    sys.exit(f"{file} has no line with {mark} {text}")
blank = lines[at][: len(lines[at]) - len(lines[at].lstrip())]
lines[at : at + (how == "replace")] = [blank + line for line in new.splitlines()]
open(file, "w").write("\n".join(lines) + "\n")
'

# change FILE OLD NEW: puts one text in the place of another, which stands in the file once.
change() {
    python3 - "$@" <<'PY'
import sys
file, old, new = sys.argv[1:]
text = open(file).read()
if text.count(old) != 1:
    sys.exit(f"{file} has {old!r} {text.count(old)} times")
open(file, "w").write(text.replace(old, new))
PY
}

# a reader waits for what the text says; `until_so COMMAND` tries it for a minute.
until_so() {
    local n
    for ((n = 0; n < 120; n++)); do
        eval "$1" >/dev/null 2>&1 && return
        sleep 0.5
    done
    echo "not so in a minute: $1"
    return 1
}
