<?php

/**
 * Says who may listen to what, and hands the browser over: nginx does the rest (comet.conf beside this file).
 *
 * To be put outside the document root. Yours to change: what a visitor may, in the middle; the path of the secret, which
 * is that of `[[tokens]]` in comet.toml, and which PHP's user must be able to read.
 */

declare(strict_types=1);

const SECRET_FILE = '/etc/cometserver/tokens.key';

/** Whoever signed out or lost a right keeps listening for so many seconds at most. */
const LASTS = 300;

if (!preg_match('~/v1/(ws|sse|stream|poll|renew)$~D', $_SERVER['DOCUMENT_URI'] ?? '', $transport)) {
    http_response_code(404);
    exit;
}

// Another page of the same visitor must not wait for this one: the session is read and let go.
session_start(['read_and_close' => true, 'use_only_cookies' => 1]);
$user = $_SESSION['user'] ?? null;

// --- What this visitor may listen to: channels by name, or by pattern (* is any run without "/", ** any run at all).
$channels = [];
$patterns = ['public/**'];
if ($user !== null) {
    // A name with a star in it must not become a pattern.
    $own = addcslashes($user, '\\*');
    $channels[] = "user/$user";
    $patterns[] = "user/$own/**";
}
// ---

$part = static fn (string $text): string => rtrim(strtr(base64_encode($text), '+/', '-_'), '=');
$claims = [
    'exp' => time() + LASTS,
    'comet' => ['channels' => $channels, 'patterns' => $patterns, 'actions' => ['subscribe']],
];
if ($user !== null) {
    $claims['sub'] = $user;
}
$flags = JSON_THROW_ON_ERROR | JSON_UNESCAPED_SLASHES | JSON_UNESCAPED_UNICODE;
$token = $part('{"alg":"HS256","typ":"JWT"}') . '.' . $part(json_encode($claims, $flags));
$secret = rtrim((string) file_get_contents(SECRET_FILE), "\r\n");
$token .= '.' . $part(hash_hmac('sha256', $token, $secret, true));

// What the browser asked for stays as it is; a token that it may have brought counts for nothing.
$query = implode('&', array_filter(
    explode('&', $_SERVER['QUERY_STRING'] ?? ''),
    static fn (string $pair): bool => strncmp(urldecode($pair), 'token=', 6) !== 0
));
header("X-Comet-Token: $token");
header("X-Accel-Redirect: /comet-hand-over/v1/$transport[1]?$query");
