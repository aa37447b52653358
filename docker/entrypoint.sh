#!/bin/sh
# Runs the server as whoever owns server-data, so that downloads on the host belong to that user
# and nobody has to pass a UID in. A folder that Docker made belongs to root: it is given to 65532.
set -eu
if [ "$(id -u)" = 0 ]; then
    owner=$(stat -c %u:%g /app/server-data)
    if [ "${owner%%:*}" = 0 ]; then
        owner=65532:65532
        chown "$owner" /app/server-data
    fi
    exec setpriv --reuid="${owner%%:*}" --regid="${owner##*:}" --clear-groups --no-new-privs "$@"
fi
exec "$@"
