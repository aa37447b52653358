#!/bin/sh
# `filepull` in the image: whatever the command, it runs as the owner of the data folder, so that downloads
# on the host belong to that user and nobody has to pass a UID in. This holds for the server, its health check
# and `docker compose exec server filepull verify`. A folder that Docker or root made is given to 65532.
set -eu
program=/usr/local/libexec/filepull
data=/app/server-data
[ "$(id -u)" = 0 ] || exec "$program" "$@"

owner=$(stat -c %u:%g "$data")
[ "${owner%%:*}" != 0 ] || owner=65532:65532

# What another user left here (a demo run by root, a server under an earlier UID) the server could not write.
# Never through a link, and no file with a second name: that one may lie outside of this folder.
take_over() {
    find "$data" -xdev \( -type d -o -type f -links 1 \) ! -user "${owner%%:*}" -exec chown -h "$owner" {} +
}
[ "${1:-}" != server ] || take_over
exec setpriv --reuid="${owner%%:*}" --regid="${owner##*:}" --clear-groups --no-new-privs "$program" "$@"
