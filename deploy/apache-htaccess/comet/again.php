<?php

/*
 * What Apache answers while the server restarts (.htaccess beside this file). A browser's EventSource gives up for ever
 * after one 503: it gets an empty stream instead, and comes back. Everything else is told the truth.
 */
header('Cache-Control: no-store');
$asked = isset($_SERVER['REQUEST_URI']) ? $_SERVER['REQUEST_URI'] : '';
if (preg_match('~/v1/sse(?:\?|$)~', $asked)) {
    header('HTTP/1.1 200 OK');
    // PHP-FPM does not say a 200 of itself, and Apache would stay with its 503.
    header('Status: 200 OK');
    header('Content-Type: text/event-stream; charset=utf-8');
    // No empty line behind it: an empty block makes some clients forget where they stand.
    echo "retry: 3000\n";
} else {
    header('HTTP/1.1 503 Service Unavailable');
    header('Content-Type: application/problem+json');
    header('Retry-After: 3');
    echo '{"type":"about:blank#unavailable","title":"Service Unavailable","status":503,'
        . '"detail":"the server is not running: try again later","code":"unavailable"}';
}
