#!/bin/sh
# Connects a browser's request to the CometServer of this site. Where it is, the file comet-data.php beside the program says.
exec "${0%/*}/../bin/comet" cgi
