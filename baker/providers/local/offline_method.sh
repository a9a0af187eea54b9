#!/bin/sh
# apt's method for http and https in a machine without a network: the indexes that are here are the newest.
# What apt has already (it says so by Last-Modified) did not change; anything else cannot be fetched.
# The protocol: apt's doc/method.dbk, "The Method Interface".
printf '100 Capabilities\nVersion: 1.2\nSingle-Instance: true\nSend-Config: false\n\n'
while read -r code _; do
    [ -n "$code" ] || continue
    uri='' file='' known=''
    while IFS= read -r line && [ -n "$line" ]; do
        case $line in
        'URI: '*) uri=${line#URI: } ;;
        'Filename: '*) file=${line#Filename: } ;;
        'Last-Modified: '*) known=${line#Last-Modified: } ;;
        esac
    done
    [ "$code" = 600 ] || continue
    case $known in
    '')
        printf '400 URI Failure\nURI: %s\nMessage: not in the cache, and --offline forbids to fetch it\n\n' "$uri"
        ;;
    *)
        printf '201 URI Done\nURI: %s\nFilename: %s\nLast-Modified: %s\nIMS-Hit: true\n\n' "$uri" "$file" "$known"
        ;;
    esac
done
