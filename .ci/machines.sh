# Two machines: network namespaces with a cable between them. Sourced by .ci/guide and .ci/trust, after steps.sh.
# shellcheck shell=bash
# shellcheck source=SCRIPTDIR/steps.sh

machines=guide-$$

# machines NAME...: creates a namespace for each name, with the addresses 198.51.100.20, .21, ... on one network, and
# a folder in $work. The names that it resolves are in /etc/netns.
start_machines() {
  local name number=20
  ip netns add "$machines-switch"
  ip -n "$machines-switch" link add bridge type bridge
  ip -n "$machines-switch" link set bridge up
  for name in "$@"; do
    mkdir -p "/etc/netns/$machines-$name" "$work/$name"
    echo "127.0.0.1 localhost" >"/etc/netns/$machines-$name/hosts"
    ip netns add "$machines-$name"
    ip link add wan netns "$machines-$name" type veth peer name "port$number" netns "$machines-switch"
    ip -n "$machines-switch" link set "port$number" master bridge up
    ip -n "$machines-$name" address add "198.51.100.$number/24" dev wan
    ip -n "$machines-$name" link set lo up
    ip -n "$machines-$name" link set wan up
    number=$((number + 1))
  done
}

# knows MACHINE ADDRESS NAME: the machine resolves the name.
knows() { echo "$2 $3" >>"/etc/netns/$machines-$1/hosts"; }

# on MACHINE COMMAND...: runs a command there.
on() { ip netns exec "$machines-$1" "${@:2}"; }

# started MACHINE OUTPUT COMMAND...: starts a program in the background; its process id is in $!. No function may stand
# between the shell and the program, or a signal would not reach it.
started() {
  ip netns exec "$machines-$1" "${@:3}" >"$2" 2>&1 &
}

stop_machines() {
  local code=$? name
  trap - EXIT
  for name in $(ip netns list | cut -d ' ' -f 1 | grep "^$machines-"); do
    # Only programs of this script are in these namespaces.
    ip netns pids "$name" | xargs -r kill 2>/dev/null || true
    ip netns delete "$name"
    rm -rf "/etc/netns/$name"
  done
  wait
  rm -rf "$work"
  exit "$code"
}
trap stop_machines EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
