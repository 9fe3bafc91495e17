#!/bin/sh
# Connects a browser's request with the server. Yours to change: where the program and the server's folder are.
COMETSERVER_DATA_DIR=/var/lib/cometserver exec /usr/local/bin/comet cgi
