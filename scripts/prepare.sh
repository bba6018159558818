# Makes a clone ready to run: Debian packages, a private virtual environment in `.venv`, the project in it.
#
# Sourced by `./sbx` and `./test` with `here` set to the clone's folder. Everything it says goes to stderr. A stamp
# holds the checksum of what was installed, and where, so that a later start costs one checksum and nothing else.

PYTHON_MINOR_MIN=11 # `requires-python` in pyproject.toml

say() { printf '%s\n' "$*" >&2; }

fail() {
    say "error: $1"
    [ -z "${2-}" ] || say "
hint: $2"
    exit 1
}

# prepare KIND [ARGS...]: KIND is `run` or `dev`; ARGS are the user's, read only for `--no-input`.
prepare() {
    kind=$1
    shift
    stamp="$here/.venv/.prepared-$kind"
    wanted=$({ cat "$here/pyproject.toml" "$here/scripts/prepare.sh" && printf "%s" "$here"; } | sha256sum)
    if [ -r "$stamp" ] && [ "$(cat "$stamp")" = "$wanted" ]; then
        return
    fi
    exec 9<"$here" # the folder itself is the lock: two first starts take turns
    flock 9
    install_packages "$@"
    make_environment "$kind"
    printf '%s\n' "$wanted" >"$stamp"
    exec 9<&-
}

# One line for each: command, Debian package, what it is for.
needed_commands() {
    cat <<'TABLE'
nft nftables captures every connection that a sandbox opens
ip iproute2 sets up the network inside a sandbox
mmdebstrap mmdebstrap builds the root file system that sandboxes start from
newuidmap uidmap gives the sandboxes of an ordinary user user ids of their own
TABLE
}

install_packages() {
    PATH="$PATH:/usr/local/sbin:/usr/sbin:/sbin"
    missing=$(needed_commands | while read -r command package purpose; do
        command -v "$command" >/dev/null 2>&1 || say_missing "$package" "$purpose"
    done)
    if [ ! -e /usr/share/keyrings/debian-archive-keyring.gpg ]; then
        missing="$missing $(say_missing debian-archive-keyring "checks what mmdebstrap downloads")"
    fi
    if ! find_python >/dev/null; then
        missing="$missing $(say_missing python3-venv "Python 3.$PYTHON_MINOR_MIN or newer with its venv module runs sbx")"
    fi
    # shellcheck disable=SC2086 # the names are words without blanks
    set -- "$(may_ask "$@")" $missing
    [ $# -gt 1 ] || return 0
    asking=$1
    shift
    command -v apt-get >/dev/null 2>&1 || fail "these are missing: $*" \
        "install what this distribution calls them with its own package manager, then run this again"
    as_root=
    [ "$(id -u)" -eq 0 ] || as_root=sudo
    typed="${as_root:+$as_root }apt-get install --no-install-recommends $*"
    if [ -n "$as_root" ] && [ -z "${CI-}" ]; then
        [ "$asking" = yes ] || fail "these Debian packages are missing: $*" "\`$typed\`, then run this again"
        printf 'run `%s` now? [y/N] ' "$typed" >&2
        read -r answer || answer=no
        case $answer in [yY]*) ;; *) fail "these Debian packages are missing: $*" "\`$typed\`" ;; esac
    fi
    [ -z "$as_root" ] || command -v sudo >/dev/null 2>&1 || fail "these Debian packages are missing: $*" \
        "as root: \`apt-get install --no-install-recommends $*\`"
    $as_root apt-get update -q >&2 || say "warning: \`apt-get update\` failed; trying with the lists that are here"
    $as_root env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "$@" >&2 ||
        fail "the packages could not be installed" "\`$typed\`"
    find_python >/dev/null || fail "no Python 3.$PYTHON_MINOR_MIN or newer with its venv module was found"
}

say_missing() {
    say "missing: $1 ($2)"
    printf '%s\n' "$1"
}

# Whether a question may be put: only on a terminal, and not with `--no-input` before a `--`.
may_ask() {
    for argument; do
        case $argument in
            --) break ;;
            --no-input) printf 'no'; return ;;
        esac
    done
    if [ -t 0 ]; then printf 'yes'; else printf 'no'; fi
}

# Prints the first interpreter that is new enough and can make virtual environments. The distribution's own comes first:
# it gets the distribution's security updates, and is built with all of the compiler's optimisation.
find_python() {
    for candidate in /usr/bin/python3 python3 python3.14 python3.13 python3.12 python3.11; do
        if "$candidate" -c "import sys, venv, ensurepip; sys.exit(sys.version_info < (3, $PYTHON_MINOR_MIN))" \
            >/dev/null 2>&1; then
            command -v "$candidate"
            return
        fi
    done
    return 1
}

make_environment() {
    python="$here/.venv/bin/python"
    if ! "$python" -c 'import pip' >/dev/null 2>&1; then
        say "making a private Python environment in $here/.venv"
        "$(find_python)" -m venv --clear "$here/.venv" >&2 || fail "the virtual environment could not be made"
    fi
    say "installing sandhold and what it needs into $here/.venv"
    set -- --editable "$here"
    if [ "$kind" = dev ]; then
        dev_requirements >"$here/.venv/dev-requirements.txt"
        set -- "$@" --requirement "$here/.venv/dev-requirements.txt"
    fi
    "$python" -m pip install --quiet --disable-pip-version-check "$@" >&2 ||
        fail "sandhold could not be installed into $here/.venv" "check the network, then run this again"
}

# The `dev` group, a requirement a line; older versions of pip do not know `--group`.
dev_requirements() {
    "$python" - "$here/pyproject.toml" <<'PYTHON'
import sys, tomllib

with open(sys.argv[1], "rb") as file:
    print("\n".join(tomllib.load(file)["dependency-groups"]["dev"]))
PYTHON
}
