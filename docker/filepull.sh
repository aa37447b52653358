#!/bin/sh
# `filepull` in the image. Every command runs as the owner of the data folder, so that downloads on the host belong
# to that user without a setting for the UID: the server, its health check, and
# `docker compose exec server filepull verify`. A folder that belongs to root is given to user 65532.
set -eu
program=/usr/local/libexec/filepull
data=/app/server-data
[ "$(id -u)" = 0 ] || exec "$program" "$@"

owner=$(stat -c %u:%g "$data")
[ "${owner%%:*}" != 0 ] || owner=65532:65532

# The server cannot write to files of another user (a demo run by root, a server with an earlier UID). Links are not
# followed, and files with a second hard link are left alone: that link may be outside of this folder.
take_over() {
    find "$data" -xdev \( -type d -o -type f -links 1 \) ! -user "${owner%%:*}" -exec chown -h "$owner" {} +
}
# A token may be made before the first start of the server.
case ${1:-} in server | token) take_over ;; esac
exec setpriv --reuid="${owner%%:*}" --regid="${owner##*:}" --clear-groups --no-new-privs "$program" "$@"
