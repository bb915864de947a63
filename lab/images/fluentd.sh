#!/bin/sh
# Stands in for fluentd: reads what lies in /var/log and prints it line by line.
trap 'exit 0' TERM INT
echo "stand-in for fluentd: reading /var/log"
while :; do
    find /var/log -type f 2>/dev/null | while read -r file; do
        echo "$file: $(tail -n 1 "$file" 2>/dev/null)"
    done
    sleep 10 &
    wait $!
done
