#!/usr/bin/env bash
# Prints every event of the log and follows the log. After a break the stream continues behind the last event.
# Usage: events.sh [URL]. ADMIN_TOKEN is the token, if there is one. Ctrl-C ends the program.
set -euo pipefail
url=${1:-http://127.0.0.1:8080}
last=

while true; do
  while IFS= read -r line; do
    case $line in
      'id: '*) last=${line#id: } ;;
      'data: '*) echo "${line#data: }" ;;
    esac
  done < <(curl --silent --no-buffer "$url/events" -H 'accept: text/event-stream' \
    -H "authorization: Bearer ${ADMIN_TOKEN:-none}" ${last:+-H "last-event-id: $last"})
  sleep 1
done
