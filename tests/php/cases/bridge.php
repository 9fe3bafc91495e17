<?php
/** The bridge: what it passes on, what it does not, and how little it costs the host. */

declare(strict_types=1);

require __DIR__ . '/../lib.php';
require ROOT . '/clients/php/autoload.php';

use CometServer\Client;

const ODD = 'a/b?c d&e%é';
const SECRET = 'a secret of at least thirty-two bytes, for tests';

$toml = folder() . '/comet.toml';
file_put_contents($toml, '[[tokens]]
name = "site"
secret = "' . SECRET . '"
[[namespaces]]
match = "open/**"
public = true
presence = true
anonymous_presence = true
anonymous_publish = true
');
chmod($toml, 0600);

function open_site(array $config): string
{
    $root = folder();
    copy(ROOT . '/clients/php/bridge.php', "$root/bridge.php");
    copy(ROOT . '/clients/php/start.php', "$root/start.php");
    file_put_contents("$root/comet-config.php", '<?php return ' . var_export($config, true) . ';');
    file_put_contents("$root/page.php", '<?php echo "an ordinary page";');
    return $root;
}

// Held for so long that nothing ends by itself while a test waits for it.
$server = new Server(array_merge(['--config', $toml], has_gateways() ? ['--set', 'held.bridge.hold=25s'] : []));
$web = new Web(open_site(['data_dir' => $server->data]));
$streaming = new Web(open_site(['data_dir' => $server->data, 'sse' => true]));
$client = new Client(['data_dir' => $server->data, 'token_secret' => SECRET]);

function json(array $answer): array
{
    $value = json_decode($answer['body'], true);
    yes(is_array($value), 'JSON: ' . shown($answer));
    return $value;
}

function bridge(string $call, array $more = []): string
{
    return '/bridge.php?call=' . $call . ($more === [] ? '' : '&' . http_build_query($more));
}

/** A server that keeps what it is asked, and answers as told, if it is to wait once the test says so. */
function recorder(string $answer, bool $waits = false): array
{
    $socket = folder() . '/rec.sock';
    $file = folder() . '/asked';
    $listener = stream_socket_server("unix://$socket");
    $pid = pcntl_fork();
    if ($pid === 0) {
        while (true) {
            $stream = @stream_socket_accept($listener, 60);
            if ($stream) {
                $asked = '';
                do {
                    $piece = fread($stream, 65536);
                    $asked .= $piece;
                } while ($piece !== '' && (strpos($asked, "\r\n\r\n") === false || (preg_match('~Content-Length: (\d+)~', $asked, $m) && strlen(explode("\r\n\r\n", $asked, 2)[1]) < $m[1])));
                file_put_contents($file, $asked);
                while ($waits && !file_exists("$file-go")) {
                    usleep(10000);
                }
                fwrite($stream, $answer);
                fclose($stream);
            }
        }
    }
    register_shutdown_function(static fn () => posix_kill($pid, SIGKILL));
    fclose($listener);
    return [new Web(open_site(['data_dir' => folder(), 'public_socket' => $socket, 'sse' => $waits])), $file, $socket];
}

test('a poll, a publication, the history, now and presence pass, in whatever way the call is named', function () use ($web): void {
    $cursor = json($web->get('/bridge.php?call=now'))['cursor'];
    $body = json_encode(['channel' => 'open/' . ODD, 'data' => 'x']);
    same(1, json($web->post('/bridge.php/v1/publish', $body, ['Content-Type' => 'application/json']))['channels'][0]['offset']);
    same('y', json($web->post(bridge('publish', ['channel' => 'open/' . ODD, 'event' => 'e']), 'y', ['Content-Type' => 'text/plain']))['channels'][0]['offset'] === 2 ? 'y' : 'n');
    foreach (['/bridge.php?call=poll&', '/bridge.php?call=/v1/poll&', '/bridge.php/v1/poll?'] as $start) {
        $answer = json($web->get($start . http_build_query(['channel' => 'open/' . ODD, 'cursor' => $cursor])));
        same(['x', 'y'], array_column($answer['publications'], 'data'));
    }
    same(['x', 'y'], array_column(json($web->get(bridge('history', ['channel' => 'open/' . ODD])))['publications'], 'data'));
    same(0, json($web->get(bridge('presence', ['channel' => 'open/' . ODD])))['count']);
});

test('a poll waits until something comes, and listens to several channels', function () use ($web, $server): void {
    $waiting = $web->begin(bridge('poll') . '&channel=open/one&channel=open/two&cursor=now');
    until('it waits', fn (): bool => $server->held() === 1);
    yes(!$waiting->ended(), 'still');
    http("unix://$server->socket", 'POST', '/v1/publish?channel=open/two', ['Content-Type' => 'text/plain'], 'late');
    $answer = $waiting->answer();
    same(['late'], array_column(json($answer)['publications'], 'data'));
    same(json($answer)['cursor'], trim($answer['headers']['etag'], '"'));
});

test('the visitor brings a token, and has no more rights through PHP than without', function () use ($web, $client): void {
    $path = bridge('poll', ['channel' => 'closed', 'wait_ms' => 0]);
    same(401, $web->get($path)['status']);
    same('application/problem+json', $web->get($path)['headers']['content-type']);
    $token = $client->token(['channels' => ['closed']]);
    same(200, $web->get($path, ['Authorization' => "Bearer $token"])['status']);
    same(200, $web->get("$path&token=$token")['status']);
    same(403, $web->get(bridge('history', ['channel' => 'closed']), ['Authorization' => "Bearer $token"])['status']);
    same(403, $web->post(bridge('publish', ['channel' => 'closed']), 'x', ['Authorization' => "Bearer $token"])['status']);
    same(401, $web->post(bridge('publish', ['channel' => 'closed']), 'x')['status']);
    same(401, $web->get(bridge('poll', ['channel' => 'closed', 'wait_ms' => 0, 'token' => "$token!"]))['status']);
});

test('nothing but these calls passes, and only with their method', function () use ($web): void {
    foreach (['admin/stop', 'stats', 'channels', 'retained', 'batch', 'ws', '../v1/poll', '', 'poll/', 'Poll', "poll\nX"] as $call) {
        same(404, $web->get('/bridge.php?call=' . urlencode($call))['status'], $call);
    }
    same(404, $web->get('/bridge.php/v1/admin/stop')['status']);
    same(404, $web->get('/bridge.php')['status']);
    same('POST', $web->get(bridge('publish'))['headers']['allow']);
    same(405, $web->post(bridge('poll'), '')['status']);
    same(405, $web->ask('DELETE', bridge('history'))['status']);
    same(405, $web->ask('HEAD', bridge('poll'))['status']);
});

test('what is passed on is made anew, so that nothing can be slipped in', function (): void {
    [$web, $file] = recorder("HTTP/1.0 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\nX-Secret: s\r\nSet-Cookie: a=b\r\n\r\n{}");
    $query = 'call=poll&channel=' . urlencode("a\r\nX: y&route=none b") . '&channel=c&route=none&evil=1&wait_ms=99999999&presence=join&join=c&watch=d&watch=e&preamble_ms=100&x%5By%5D=1';
    $answer = $web->get('/bridge.php?' . $query, [
        'X-Forwarded-For' => '10.0.0.1', 'X-Api-Key' => 'key', 'Cookie' => 'session=secret', 'Authorization' => 'Bearer aaa.bbb.ccc', 'X-Real-IP' => '1.2.3.4',
        'Origin' => 'http://localhost', 'Forwarded' => 'for=1.1.1.1', 'If-None-Match' => '"abc"', 'Host' => 'site.example:8080', 'Transfer-Encoding' => 'identity',
    ]);
    same('{}', $answer['body']);
    yes(!isset($answer['headers']['x-secret']) && $answer['cookies'] === [] && !isset($answer['headers']['x-powered-by']), 'nor does anything odd come back: ' . shown($answer));
    $asked = file_get_contents($file);
    [$head] = explode("\r\n\r\n", $asked);
    $lines = explode("\r\n", $head);
    same('GET /v1/poll?channel=a%0D%0AX%3A%20y%26route%3Dnone%20b&channel=c&presence=join&join=c&watch=d&watch=e&wait_ms=10000&route=bridge HTTP/1.0', array_shift($lines));
    sort($lines);
    same(['Authorization: Bearer aaa.bbb.ccc', 'Host: site.example:8080', 'If-None-Match: "abc"', 'Origin: http://localhost', 'X-Forwarded-For: 192.0.2.1'], $lines);
});

test('the bridge shows the key beside the socket, as it is at that moment, and none that a visitor brings', function (): void {
    [$web, $file, $socket] = recorder("HTTP/1.0 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}");
    $shown = static function () use ($web, $file): ?string {
        same(200, $web->get(bridge('poll', ['channel' => 'a']), ['Comet-Gateway' => str_repeat('d', 64)])['status']);
        return preg_match('~^Comet-Gateway: (.*)\r$~m', file_get_contents($file), $match) ? $match[1] : null;
    };
    same(null, $shown());
    foreach ([str_repeat('a', 64) . "\n" => str_repeat('a', 64), str_repeat('b', 64) => str_repeat('b', 64), "evil\r\nX: y" => null, '' => null] as $text => $key) {
        file_put_contents("$socket.key", $text);
        same($key, $shown(), $text);
    }
});

test('visitors who only say that they come by the bridge take no place of those who do', function () use ($toml): void {
    $server = new Server(['--config', $toml, '--set', 'held.bridge.hold=25s']);
    $web = new Web(open_site(['data_dir' => $server->data]));
    $pretenders = [];
    for ($n = 0; $n < 6; $n++) {
        $pretenders[] = $stream = stream_socket_client("unix://$server->public");
        fwrite($stream, "GET /v1/poll?channel=open/a&route=bridge HTTP/1.1\r\nHost: x\r\n\r\n");
    }
    until('they have all of theirs', static fn (): bool => $server->held() === 3);
    $visitors = [];
    for ($n = 0; $n < 3; $n++) {
        $visitors[] = $web->begin(bridge('poll', ['channel' => 'open/a', 'cursor' => 'now']));
    }
    until('the bridge has all of its own', static fn (): bool => $server->held() === 6);
    yes(isset(json($web->get(bridge('poll', ['channel' => 'open/a', 'cursor' => 'now'])))['retry_ms']), 'and no more');
    http("unix://$server->socket", 'POST', '/v1/publish?channel=open/a', ['Content-Type' => 'text/plain'], 'for all');
    foreach ($visitors as $visitor) {
        same(['for all'], array_column(json($visitor->answer())['publications'], 'data'));
    }
});

test('headers that could not be passed on are refused', function () use ($web): void {
    foreach ([['Accept' => "a/b\n"], ['Origin' => "http://x\n"], ['Authorization' => "Bearer a\n"], ['Host' => 'a b'], ['Host' => 'evil/@x'], ['Authorization' => 'Bearer a b'], ['Origin' => 'http://' . str_repeat('x', 400)]] as $headers) {
        $answer = $web->get(bridge('now'), $headers);
        same(400, $answer['status'], shown($headers));
        yes(strpos($answer['body'], 'not one to be passed on') !== false, 'by the bridge: ' . shown($answer));
    }
    // A site behind the web server's own password.
    same(200, $web->get(bridge('now'), ['Authorization' => 'Basic eDp5'])['status']);
});

test('what a visitor saw last is never a reason to refuse: what cannot be read is a gap, or as if it were not there', function () use ($web, $streaming, $server): void {
    foreach (["caf\xe9", 'a b', str_repeat('x', 600)] as $unreadable) {
        $stream = $streaming->begin(bridge('sse', ['channel' => 'open/unread']), ['Accept' => 'text/event-stream', 'Last-Event-ID' => $unreadable]);
        until('a gap', static function () use ($stream): bool {
            $stream->ended();
            return strpos($stream->bytes, '"type":"gap"') !== false;
        });
        $stream->hangUp();
        until('noticed', fn (): bool => $server->held() === 0);
    }
    foreach (['"a", "b"', "\"\x80\"", str_repeat('x', 600)] as $tags) {
        $answer = $web->get(bridge('poll', ['channel' => 'open/unread', 'wait_ms' => 0]), ['If-None-Match' => $tags]);
        same([200, []], [$answer['status'], json($answer)['publications']], shown($tags));
    }
});

test('what is too large is refused before it is taken in', function () use ($web): void {
    same(413, $web->post(bridge('publish', ['channel' => 'open/x']), str_repeat('x', 2300000), ['Content-Type' => 'text/plain'])['status']);
    $long = $web->get('/bridge.php?call=poll&channel=' . str_repeat('x', 40000));
    same(414, $long['status'], shown($long));
    // Under the bridge's bound and over the server's own, whose answer comes through.
    same(413, $web->post(bridge('publish', ['channel' => 'open/x']), str_repeat('x', 1200000), ['Content-Type' => 'text/plain'])['status']);
});

test('a page of another origin may not publish through it', function () use ($web): void {
    same(403, $web->post(bridge('publish', ['channel' => 'open/x']), 'x', ['Content-Type' => 'text/plain', 'Host' => 'site.example', 'Origin' => 'http://evil.example'])['status']);
    same(200, $web->post(bridge('publish', ['channel' => 'open/x']), 'x', ['Content-Type' => 'text/plain', 'Host' => 'site.example', 'Origin' => 'https://site.example'])['status']);
});

test('who has the newest already is told so in few bytes', function () use ($web): void {
    $first = $web->get(bridge('poll', ['channel' => 'open/etag', 'cursor' => 'now', 'wait_ms' => 0]));
    $again = $web->get(bridge('poll', ['channel' => 'open/etag', 'wait_ms' => 0]), ['If-None-Match' => $first['headers']['etag']]);
    same([304, ''], [$again['status'], $again['body']]);
    yes(isset($again['headers']['etag']), 'with the tag to use next');
});

test('a server that is down is a problem with a time to come back, and nothing about this machine', function (): void {
    $web = new Web(open_site(['data_dir' => folder()]));
    $answer = $web->get(bridge('poll', ['channel' => 'x']));
    same([503, 'unavailable'], [$answer['status'], json($answer)['code']]);
    yes($answer['headers']['x-comet-retry-ms'] > 0 && $answer['headers']['retry-after'] > 0, 'when');
    yes(strpos($answer['body'], '/') === strpos($answer['body'], '/problem') || strpos($answer['body'], 'tmp') === false, 'no path: ' . $answer['body']);
});

test('an EventSource whose server is down is told when to come back, in the only way it does not take for the end', function (): void {
    $web = new Web(open_site(['data_dir' => folder(), 'sse' => true]));
    $answer = $web->get(bridge('sse', ['channel' => 'x']), ['Accept' => 'text/event-stream']);
    same([200, "retry: 2000\n"], [$answer['status'], $answer['body']]);
    yes(strpos($answer['headers']['content-type'], 'text/event-stream') === 0, 'as a stream');
});

test('it starts the server where that is allowed', function (): void {
    $data = folder() . '/data';
    $web = new Web(open_site(['data_dir' => $data, 'start' => true, 'binary' => realpath(Server::binary())]));
    same(200, $web->get(bridge('now'))['status']);
    comet('stop', '--data-dir', $data);
});

test('a session of the visitor is not kept locked', function () use ($server): void {
    $root = open_site(['data_dir' => $server->data]);
    file_put_contents("$root/other.php", '<?php echo session_id() === "" ? "no session" : "an ordinary page";');
    $web = new Web($root, ['session.save_path=' . folder(), 'session.auto_start=1']);
    $cookie = ['Cookie' => 'PHPSESSID=abcdefabcdefabcdefabcdef02'];
    $waiting = $web->begin(bridge('poll', ['channel' => 'open/s', 'cursor' => 'now']), $cookie);
    until('it waits', fn (): bool => $server->held() === 1);
    same('an ordinary page', $web->get('/other.php', $cookie)['body']);
    yes(!$waiting->ended(), 'it waits on');
    $waiting->hangUp();
    http("unix://$server->socket", 'POST', '/v1/publish?channel=open/s', [], 'x');
    until('nobody waits', fn (): bool => $server->held() === 0);
});

test('a new poll of the same session ends the older one, and a page that leaves gives its place back', function () use ($streaming, $server): void {
    $path = bridge('poll', ['channel' => 'open/session', 'cursor' => 'now', 'session' => 'mine']);
    $old = $streaming->begin($path);
    until('one waits', fn (): bool => $server->held() === 1);
    $new = $streaming->begin($path);
    same([], json($old->answer())['publications']);
    until('one waits', fn (): bool => $server->held() === 1);
    if (!has_gateways()) {
        throw new Skipped('this server has no /v1/release');
    }
    same(204, $streaming->post('/bridge.php?release=mine&channel=open/session', '')['status']);
    same([], json($new->answer())['publications']);
    until('nobody waits', fn (): bool => $server->held() === 0);
});

function has_gateways(): bool
{
    static $has = null;
    return $has = $has ?? strpos(comet('config', 'default'), 'bridge.max') !== false;
}

test('where pieces arrive a closed tab is noticed while it waits, and the answer is still JSON', function () use ($streaming, $server): void {
    $gone = $streaming->begin(bridge('poll', ['channel' => 'open/gone', 'cursor' => 'now']));
    $stays = $streaming->begin(bridge('poll', ['channel' => 'open/stays', 'cursor' => 'now']));
    until('both wait', fn (): bool => $server->held() === 2);
    until('a first blank', static function () use ($stays): bool {
        $stays->ended();
        return substr($stays->bytes, -1) === ' ';
    });
    $gone->hangUp();
    until('one has been noticed', fn (): bool => $server->held() === 1);
    http("unix://$server->socket", 'POST', '/v1/publish?channel=open/stays', ['Content-Type' => 'text/plain'], 'x');
    $answer = $stays->answer();
    same(' ', $answer['body'][0]);
    same(['x'], array_column(json($answer)['publications'], 'data'));
});

test('a server that goes away while a visitor waits leaves it a good answer', function () use ($toml): void {
    $server = new Server(['--config', $toml]);
    $web = new Web(open_site(['data_dir' => $server->data, 'sse' => true]));
    $cursor = json($web->get(bridge('now')))['cursor'];
    $waiting = $web->begin(bridge('poll', ['channel' => 'open/x', 'cursor' => $cursor]));
    until('a first blank', static function () use ($waiting): bool {
        $waiting->ended();
        return substr($waiting->bytes, -1) === ' ';
    });
    $server->stop(9);
    $answer = json($waiting->answer());
    same([[], $cursor], [$answer['publications'], $answer['cursor']]);
    yes($answer['retry_ms'] > 0, 'and when to come back');
});

test('an error after the first blank is a good answer with the same place, which every client understands', function (): void {
    $problem = '{"code":"unavailable","status":503}';
    $head = "HTTP/1.0 503 Service Unavailable\r\nContent-Type: application/problem+json\r\nRetry-After: 7\r\nContent-Length: " . strlen($problem);
    [$web, $file] = recorder("$head\r\n\r\n$problem", true);
    foreach (['abc' => 'abc', '%FF' => 'now'] as $given => $kept) {
        @unlink("$file-go");
        $waiting = $web->begin(bridge('poll', ['channel' => 'open/x']) . "&cursor=$given");
        until('a first blank', static function () use ($waiting): bool {
            $waiting->ended();
            return substr($waiting->bytes, -1) === ' ';
        });
        touch("$file-go");
        $answer = $waiting->answer();
        same(200, $answer['status']);
        same(['publications' => [], 'retry_ms' => 7000, 'cursor' => $kept], json($answer));
    }
});

test('events stream where pieces arrive, resume where they ended, and end when the tab is closed', function () use ($streaming, $server): void {
    $publish = static fn (string $text) => http("unix://$server->socket", 'POST', '/v1/publish?channel=open/sse', ['Content-Type' => 'text/plain'], $text);
    $stream = $streaming->begin(bridge('sse', ['channel' => 'open/sse']), ['Accept' => 'text/event-stream']);
    $seen = static function ($stream, string $text): bool {
        $stream->ended();
        return strpos($stream->bytes, $text) !== false;
    };
    until('it begins', fn (): bool => $seen($stream, "\nid:"));
    $publish('one');
    until('one', fn (): bool => $seen($stream, '"one"'));
    until('something to notice closed tabs by', fn (): bool => $seen($stream, "\n:\n"));
    yes(strpos($stream->bytes, 'text/event-stream') !== false && stripos($stream->bytes, 'X-Accel-Buffering: no') !== false, 'its head');
    preg_match_all('~^id: ?(\S+)$~m', $stream->bytes, $ids);
    $stream->hangUp();
    until('noticed', fn (): bool => $server->held() === 0);
    $publish('two');
    $again = $streaming->begin(bridge('sse', ['channel' => 'open/sse']), ['Accept' => 'text/event-stream', 'Last-Event-ID' => end($ids[1])]);
    until('two', fn (): bool => $seen($again, '"two"'));
    yes(!$seen($again, '"one"'), 'and not one again');
    $again->hangUp();
    until('noticed', fn (): bool => $server->held() === 0);
});

test('a stream is refused as it should be: a visitor without rights 401, one where no pieces arrive in its own way', function () use ($web, $streaming): void {
    same(401, $streaming->get(bridge('sse', ['channel' => 'closed']))['status']);
    $answer = $web->get(bridge('sse', ['channel' => 'open/x']), ['Accept' => 'text/event-stream']);
    same([200, "retry: 2000\n", 'no-stream'], [$answer['status'], $answer['body'], $answer['headers']['x-comet-bridge']]);
    same(501, $web->get(bridge('sse', ['channel' => 'open/x']), ['Accept' => '*/*'])['status']);
});

test('a probe finds out that pieces arrive, and that is remembered', function () use ($server): void {
    $data = folder();
    $web = new Web(open_site(['data_dir' => $data, 'public_socket' => $server->public]));
    $probe = $web->begin('/bridge.php?probe=1');
    $number = until('its number', static function () use ($probe): string {
        $probe->ended();
        return preg_match('~"probe":"([0-9a-f]{32})"~', $probe->bytes, $match) ? $match[1] : '';
    });
    yes(strpos($web->get('/bridge.php?probe=1')['body'], '"busy":true') !== false, 'one at a time');
    same(204, $web->post('/bridge.php?probe=' . $number, '')['status']);
    yes(strpos($probe->answer()['body'], '{"streams":true}') !== false, 'they arrive');
    same("data: {\"streams\":true}\n\n", $web->get('/bridge.php?probe=1')['body']);
    same([], glob("$data/php/probe-*"), 'nothing is left of it');
    $stream = $web->begin(bridge('sse', ['channel' => 'open/probe']), ['Accept' => 'text/event-stream']);
    until('it streams', static function () use ($stream): bool {
        $stream->ended();
        return strpos($stream->bytes, "\nid:") !== false;
    });
    $stream->hangUp();
    yes(strpos($web->get('/bridge.php?probe=page')['body'], '<script>') !== false, 'a page that does it');
});

test('a probe that nobody answers in time says no, and cannot be made to say yes afterwards', function () use ($server): void {
    $data = folder();
    $web = new Web(open_site(['data_dir' => $data, 'public_socket' => $server->public]));
    $body = $web->get('/bridge.php?probe=1')['body'];
    yes(strpos($body, '{"streams":false}') !== false, $body);
    preg_match('~"probe":"([0-9a-f]{32})"~', $body, $match);
    $web->post('/bridge.php?probe=' . $match[1], '');
    $web->post('/bridge.php?probe=../../x', '');
    same("data: {\"streams\":false}\n\n", $web->get('/bridge.php?probe=1')['body']);
    same(501, $web->get(bridge('sse', ['channel' => 'open/x']))['status']);
});

test("PHP's own web server streams it too", function () use ($server): void {
    $web = new CliServer(open_site(['data_dir' => $server->data, 'sse' => true]));
    $stream = $web->begin('/bridge.php/v1/sse?channel=open/cli', ['Accept' => 'text/event-stream']);
    until('it begins', static function () use ($stream): bool {
        $stream->ended();
        return strpos($stream->bytes, "\nid:") !== false;
    });
    $stream->hangUp();
    until('noticed', fn (): bool => $server->held() === 0);
});

test('CGI answers too', function () use ($server): void {
    $cgi = trim((string) shell_exec('command -v php-cgi'));
    if ($cgi === '') {
        throw new Skipped('php-cgi is not installed');
    }
    $root = open_site(['data_dir' => $server->data]);
    $process = new Process([$cgi, '-d', 'display_errors=1'], ['GATEWAY_INTERFACE' => 'CGI/1.1', 'REDIRECT_STATUS' => '200', 'REQUEST_METHOD' => 'GET', 'SCRIPT_FILENAME' => "$root/bridge.php",
        'SCRIPT_NAME' => '/bridge.php', 'REQUEST_URI' => '/bridge.php?call=now', 'QUERY_STRING' => 'call=now', 'HTTP_HOST' => 'x', 'REMOTE_ADDR' => '::1', 'SERVER_PROTOCOL' => 'HTTP/1.1']);
    until('it ends', static fn (): bool => !$process->isRunning());
    yes(isset(json(cgiAnswer($process->output()))['cursor']), $process->output());
});

test('with 5 workers of FPM and 30 waiting visitors an ordinary page answers, and all get the message', function () use ($toml): void {
    if (!has_gateways()) {
        throw new Skipped('this server has no held.bridge.max');
    }
    $server = new Server(['--config', $toml]);
    $fpm = new Web(open_site(['data_dir' => $server->data]), [], 5);
    $visitors = array_fill(0, 30, null);
    $cursors = array_fill(0, 30, 'now');
    $due = array_fill(0, 30, 0.0);
    $got = [];
    $turn = static function () use (&$visitors, &$cursors, &$due, &$got, $fpm): void {
        foreach ($visitors as $i => $visitor) {
            if ($visitor === null && microtime(true) >= $due[$i] && !isset($got[$i])) {
                $visitors[$i] = $fpm->begin(bridge('poll', ['channel' => 'open/all', 'cursor' => $cursors[$i], 'session' => "visitor-$i"]));
            } elseif ($visitor !== null && $visitor->ended()) {
                $answer = json($visitor->answer());
                $visitors[$i] = null;
                $due[$i] = microtime(true) + ($answer['retry_ms'] ?? 0) / 1000;
                $cursors[$i] = $answer['cursor'];
                if ($answer['publications'] !== []) {
                    $got[$i] = $answer['publications'][0]['data'];
                }
            }
        }
    };
    until('all have asked', function () use ($turn, &$visitors, &$cursors, $server): bool {
        $turn();
        $waiting = count(array_filter($visitors));
        return $server->held() === 3 && $waiting === 3 && $waiting + count(array_diff($cursors, ['now'])) >= 30;
    });
    for ($n = 0, $slowest = 0.0; $n < 5; $n++) {
        $began = microtime(true);
        same('an ordinary page', $fpm->get('/page.php')['body']);
        $slowest = max($slowest, microtime(true) - $began);
        $turn();
    }
    yes($slowest < 2, "an ordinary page took $slowest s");
    http("unix://$server->socket", 'POST', '/v1/publish?channel=open/all', ['Content-Type' => 'text/plain'], 'for all');
    until('all have it', static function () use ($turn, &$got): bool {
        $turn();
        return count($got) === 30;
    });
    same(['for all'], array_values(array_unique($got)));
});
