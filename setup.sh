#!/bin/sh
# Generates the demo's data: client-data/client1..5/data.txt and server-data/. Safe to run twice.
set -eu
cd "$(dirname "$0")"

usage() {
    cat <<'EOF'
./setup.sh [--force]   generate client-data/client1..5/data.txt (100 MiB of text each) and server-data/
./setup.sh --up        the same, then start server and clients in Docker, pull client4's file and compare
./setup.sh --local     no Docker: run server and clients as one process (needs cargo and cc)

--force     replace files that exist
CLIENTS=5   number of clients (docker-compose.yml has five)
SIZE_MB=100 size of each file, in MiB
HTTP_PORT=8080, GRPC_PORT=50051  ports on this machine, for --up and docker compose
EOF
}

fail() {
    echo "setup.sh: $*" >&2
    exit 1
}

# A whole number from 1 to 999999, without a leading zero that sh would read as octal.
whole() {
    case $2 in
        '' | 0* | *[!0-9]* | ???????*) fail "$1 must be a whole number from 1 to 999999, not \"$2\"" ;;
    esac
}

force=no up=no local=no
for arg in "$@"; do
    case $arg in
        --force) force=yes ;;
        --up) up=yes ;;
        --local) local=yes ;;
        -h | --help) usage && exit 0 ;;
        *) usage >&2 && fail "unknown argument: \"$arg\"" ;;
    esac
done
CLIENTS=${CLIENTS:-5}
SIZE_MB=${SIZE_MB:-100}
whole CLIENTS "$CLIENTS"
whole SIZE_MB "$SIZE_MB"
HTTP_PORT=${HTTP_PORT:-8080}
whole HTTP_PORT "$HTTP_PORT"
size=$((SIZE_MB * 1048576))

run_local() {
    command -v cargo >/dev/null || fail "cargo is missing: install Rust 1.95 or newer, https://rustup.rs"
    command -v cc >/dev/null || fail "a C compiler is missing: apt-get install -y gcc libc6-dev (macOS: xcode-select --install)"
    exec env CLIENTS="$CLIENTS" SIZE="${SIZE_MB}MiB" cargo run --release -- demo
}

first_line() { echo "$1: first line of a file that setup.sh made"; }
last_line() { echo "$1: last line, $SIZE_MB MiB in all"; }
bytes_in() { wc -c <"$1" | tr -d ' '; }

# Incompressible text, different for every client: if clients were confused, the digests would differ.
text() {
    lines=$(($1 / 121 + 1))
    head -c $((lines * 90)) /dev/urandom | wrapped_base64 | { head -c "$1" && cat >/dev/null; }
}

wrapped_base64() {
    if base64 -w 120 </dev/null >/dev/null 2>&1; then
        base64 -w 120
    else
        base64 | fold -w 120
    fi
}

# Prints what to do with one client's file: generate it, or leave it (ready: complete, foreign: not from setup.sh).
action() {
    file=client-data/$1/data.txt
    if [ ! -e "$file" ] || [ "$force" = yes ]; then
        echo generate
    elif ! head -c 200 "$file" | head -n 1 | grep -qxF "$(first_line "$1")"; then
        echo foreign
    elif [ "$(bytes_in "$file")" = "$size" ] && [ "$(tail -n 1 "$file")" = "$(last_line "$1")" ]; then
        echo ready
    else
        echo generate
    fi
}

generate_file() {
    tmp=client-data/$1/data.txt.tmp.$$
    first=$(first_line "$1")
    last=$(last_line "$1")
    # three newlines: after the first line, before and after the last
    text_len=$((size - ${#first} - ${#last} - 3))
    { echo "$first" && text "$text_len" && echo && echo "$last"; } >"$tmp"
    [ "$(bytes_in "$tmp")" = "$size" ] || fail "could not write $size bytes to $tmp"
    mv -f "$tmp" "client-data/$1/data.txt"
    tmp=
}

clients() {
    n=1
    while [ "$n" -le "$CLIENTS" ]; do
        echo "client$n"
        n=$((n + 1))
    done
}

digest() {
    if command -v sha256sum >/dev/null; then sha256sum "$@"; else shasum -a 256 "$@"; fi
}

# Every file is written here, and a second time by the server that pulls it.
check_free_space() {
    missing=0
    for client in $(clients); do
        [ "$(action "$client")" != generate ] || missing=$((missing + 1))
    done
    need=$((missing * SIZE_MB * 2))
    free=$(df -Pk client-data | awk 'NR == 2 { print int($4 / 1024) }')
    [ "$free" -ge "$need" ] || fail "$missing files and their copies need $need MiB, the disk has $free MiB free"
}

generate_data() {
    # The agents in the containers run as user 65532 and must be able to read these files.
    umask 022
    tmp=
    trap '[ -z "$tmp" ] || rm -f "$tmp"' EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM HUP
    mkdir -p client-data server-data
    check_free_space
    for client in $(clients); do
        mkdir -p "client-data/$client"
        [ -w "client-data/$client" ] || fail "you may not write to client-data/$client: sudo chown $(id -u) client-data/$client"
        case $(action "$client") in
            ready) echo "client-data/$client/data.txt exists" ;;
            foreign) echo "client-data/$client/data.txt is not from setup.sh, left unchanged (--force replaces it)" ;;
            generate)
                generate_file "$client"
                echo "client-data/$client/data.txt generated, $SIZE_MB MiB"
                ;;
        esac
    done
    tmp=client-data/SHA256SUMS.tmp.$$
    # shellcheck disable=SC2046 # names without spaces: client1, client2, ...
    (cd client-data && digest $(clients | sed 's|$|/data.txt|')) >"$tmp"
    mv -f "$tmp" client-data/SHA256SUMS
    tmp=
}

find_compose() {
    command -v docker >/dev/null || fail "docker is missing; without it: ./setup.sh --local"
    docker info >/dev/null 2>&1 || fail "the Docker engine does not respond (is it running, and may you use it?); without it: ./setup.sh --local"
    if docker compose version >/dev/null 2>&1; then
        compose="docker compose"
    elif command -v docker-compose >/dev/null; then
        compose=docker-compose
        export DOCKER_BUILDKIT=1 COMPOSE_DOCKER_CLI_BUILD=1
    else
        fail "Docker Compose is missing (Debian: docker-compose, Docker's own packages: docker-compose-plugin); without it: ./setup.sh --local"
    fi
}

# docker-compose 1 has no --wait: inspect every container.
wait_until_healthy() {
    tries=90
    while :; do
        # shellcheck disable=SC2046 # ids have no spaces
        states=$(docker inspect -f '{{.Name}} {{.State.Health.Status}}' $($compose ps -q) || true)
        [ -n "$states" ] && ! echo "$states" | grep -qv ' healthy$' && return
        tries=$((tries - 1))
        [ "$tries" -gt 0 ] || fail "not healthy after three minutes, see: $compose logs
$states"
        sleep 2
    done
}

fetch() {
    if command -v curl >/dev/null; then curl -fsS --max-time 300 "$1"; else wget -qO- --timeout=300 "$1"; fi
}

run_up() {
    [ "$CLIENTS" -ge 5 ] || fail "--up starts five clients, so CLIENTS must be at least 5"
    $compose up --build -d
    echo "waiting until server and clients are healthy"
    wait_until_healthy
    echo "curl \"localhost:$HTTP_PORT/trigger?id=client4&wait=5m\""
    answer=$(fetch "http://localhost:$HTTP_PORT/trigger?id=client4&wait=5m") || fail "the pull failed, see: $compose logs server client4"
    echo "$answer"
    saved=$(echo "$answer" | sed -n 's/^ *saved *//p')
    [ -f "$saved" ] || fail "the response names a file that does not exist: $saved"
    sent=$(digest <client-data/client4/data.txt)
    [ "$(digest <"$saved")" = "$sent" ] || fail "$saved differs from client-data/client4/data.txt"
    echo "The digests are equal: $saved is client4's file."
    echo "Next: curl localhost:$HTTP_PORT, or stop everything: $compose down"
}

[ "$local" = no ] || run_local
[ "$up" = no ] || find_compose
generate_data
if [ "$up" = yes ]; then
    run_up
else
    echo
    echo "Next: docker compose up --build"
    echo "then: curl \"localhost:$HTTP_PORT/trigger?id=client4\""
fi
