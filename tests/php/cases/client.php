<?php
/** The client: what it does, and what it spares a page when something is wrong. */

declare(strict_types=1);

require __DIR__ . '/../lib.php';
require ROOT . '/clients/php/autoload.php';

use CometServer\Client;
use CometServer\Exception\BadAnswer;
use CometServer\Exception\CannotRead;
use CometServer\Exception\Conflict;
use CometServer\Exception\NotAllowed;
use CometServer\Exception\Refused;
use CometServer\Exception\TimedOut;
use CometServer\Exception\TooLarge;
use CometServer\Exception\Unreachable;
use CometServer\Json;
use CometServer\Message;
use CometServer\Token;

const ODD = 'a/b?c d&e%é';
const SECRET = 'a secret of at least thirty-two bytes, for tests';

$server = new Server(['--limits-message-size', '64KiB'], null);
$client = static fn (array $options = []): Client => new Client($options + ['data_dir' => $server->data]);

/** A server that takes connections and does something odd with each; gives its target. */
function odd_server(callable $serve): string
{
    $socket = folder() . '/odd.sock';
    $listener = stream_socket_server("unix://$socket");
    $pid = pcntl_fork();
    if ($pid === 0) {
        for ($number = 0;; $number++) {
            $stream = @stream_socket_accept($listener, 60);
            if ($stream) {
                $serve($stream, $number);
            }
        }
    }
    register_shutdown_function(static fn () => posix_kill($pid, SIGKILL));
    fclose($listener);
    return $socket;
}

test('what is published comes back from the history as it was, in every kind', function () use ($client): void {
    $values = [['a' => 1, 'list' => [], 'float' => 1.0, 'text' => "é \"quoted\" </script>"], 'text', 17, true, [1, 2]];
    foreach ($values as $value) {
        $client()->publish('kinds', $value);
    }
    $client()->publish('kinds', "line\nline é", ['kind' => 'text']);
    $client()->publish('kinds', "\x00\xFF bytes", ['kind' => 'binary']);
    $messages = $client()->history('kinds')['publications'];
    same(array_merge($values, ["line\nline é", "\x00\xFF bytes"]), array_map(static fn (Message $m) => $m->data, $messages));
    same([1, 2, 3, 4, 5, 6, 7], array_column($messages, 'offset'));
    yes(abs($messages[0]->time / 1000 - time()) < 60, 'its time is about now');
});

test('event, id and tags come along', function () use ($client): void {
    $client()->publish('fields', 1, ['event' => 'price', 'id' => 'mine', 'tags' => ['a' => 'b']]);
    $message = $client()->history('fields')['publications'][0];
    same(['price', 'mine', ['a' => 'b']], [$message->event, $message->id, $message->tags]);
});

test('a channel may have any name, and several are published to at once', function () use ($client): void {
    $answer = $client()->publish([ODD, 'other'], 'x');
    same([ODD, 'other'], array_column($answer['channels'], 'channel'));
    same('x', $client()->history(ODD)['publications'][0]->data);
});

test('the retained value is read, and deleted once', function () use ($client): void {
    same(null, $client()->read('kept'));
    $client()->publish('kept', ['n' => 1], ['retain' => true]);
    same(['n' => 1], $client()->read('kept')->data);
    same([true, false], [$client()->delete('kept'), $client()->delete('kept')]);
    same(1, $client()->deleteHistory('kept'));
});

test('many go in one request, each with a result of its own', function () use ($client): void {
    $results = $client()->publishMany([
        ['channel' => 'many', 'data' => 1],
        ['channel' => '', 'data' => 2],
        ['channels' => ['many', 'more'], 'data' => 'three', 'kind' => 'text', 'event' => 'e'],
    ]);
    same(1, $results[0]['channels'][0]['offset']);
    yes($results[1] instanceof Refused, 'the second is refused');
    same(2, count($results[2]['channels']));
    same([], $client()->publishMany([]));
});

test('a page cursor covers nothing that comes after it', function () use ($client): void {
    $client()->publish('page', 'before');
    $cursor = $client()->now();
    $client()->publish('page', 'after');
    same(['after'], array_map(static fn (Message $m) => $m->data, $client()->history('page', ['since' => $cursor])['publications']));
});

test('history is read on from its cursor, or backwards', function () use ($client): void {
    foreach ([1, 2, 3] as $n) {
        $client()->publish('paged', $n);
    }
    $first = $client()->history('paged', ['limit' => 2]);
    same([1, 2], array_column($first['publications'], 'data'));
    same([3], array_column($client()->history('paged', ['since' => $first['cursor']])['publications'], 'data'));
    same([3, 2], array_column($client()->history('paged', ['limit' => 2, 'reverse' => true])['publications'], 'data'));
});

test('what PHP cannot read is stepped over in a history, and named', function (): void {
    $server = Server::withOldLog();
    $client = new Client(['data_dir' => $server->data]);
    $history = $client->history('odd');
    same([1, 5, 7, 8, 10], array_column($history['publications'], 'offset'));
    same(['before', INF, ["\0a" => 1], 'between', 'after'], array_column($history['publications'], 'data'));
    same([2, 3, 4, 6, 9], array_column($history['unreadable'], 'offset'));
    same([10, false], [$history['offset'], $history['gap']]);
    foreach ($history['unreadable'] as $unreadable) {
        same('odd', $unreadable->channel);
        yes($unreadable->reason !== '' && $unreadable->time > 0, 'it says why, and when: ' . shown($unreadable));
        yes(json_decode($unreadable->json) === null, 'as it came');
    }
    same('{"type":"publication","channel":"odd","offset":2,', substr($history['unreadable'][0]->json, 0, 49));
    same('"data":"\ud83d"}', substr($history['unreadable'][0]->json, -16));
    // It is read on, and backwards, as any other.
    $first = $client->history('odd', ['limit' => 3]);
    same([[1], [2, 3]], [array_column($first['publications'], 'offset'), array_column($first['unreadable'], 'offset')]);
    $rest = $client->history('odd', ['since' => $first['cursor']]);
    same([[5, 7, 8, 10], [4, 6, 9]], [array_column($rest['publications'], 'offset'), array_column($rest['unreadable'], 'offset')]);
    $last = $client->history('odd', ['limit' => 2, 'reverse' => true]);
    same([[10], [9]], [array_column($last['publications'], 'offset'), array_column($last['unreadable'], 'offset')]);
    same([], $client->history('odd/good')['unreadable']);
    $fault = throws(CannotRead::class, static fn () => $client->read('odd/value'));
    same(['odd/value', 1], [$fault->unreadable->channel, $fault->unreadable->offset]);
    same('good', $client->read('odd/good')->data);
});

test('a value that some reader refuses is refused when it is published', function () use ($client): void {
    $deep = array_reduce(range(1, 60), static fn ($value) => [$value], 1);
    $client()->publish('strict', $deep);
    $refused = throws(Refused::class, static fn () => $client()->publish('strict', [$deep]));
    yes(strpos($refused->getMessage(), 'limits.json_depth') !== false, $refused->getMessage());
    throws(Refused::class, static fn () => $client()->publish('strict', (array) new class {
        private int $a = 1;
    }));
});

test('a member whose info PHP cannot read is listed without it', function (): void {
    $socket = odd_server(static function ($stream): void {
        fread($stream, 65536);
        $body = '{"channel":"a","count":2,"members":[{"user":"u","connections":1,"info":{"n":"\udead"}},{"user":"v","connections":1,"info":[1]}],"cursor":"c"}';
        fwrite($stream, "HTTP/1.1 200 OK\r\nContent-Length: " . strlen($body) . "\r\n\r\n$body");
    });
    $presence = (new Client(['socket' => $socket]))->presence('a');
    same(['user', 'connections', 'unreadable'], array_keys($presence['members'][0]));
    same(['user' => 'v', 'connections' => 1, 'info' => [1]], $presence['members'][1]);
    same([2, 'c'], [$presence['count'], $presence['cursor']]);
});

test('JSON in parts is what PHP reads as a whole, and anything else is a bad answer', function (): void {
    $pieces = ['{', '}', '[', ']', ',', ':', ' ', '"a"', '"b\\\\"', '"\\\\\"]}"', '"', '\\', '1', '-2.5e3', 'true', 'null', '"é"', '{"a":1}', '[[],{}]', "\n"];
    mt_srand(17);
    for ($round = 0; $round < 20000; $round++) {
        $text = mt_rand(0, 1) ? ['{"a":', '[', '{'][mt_rand(0, 2)] : '';
        for ($left = mt_rand(0, 7); $left > 0; $left--) {
            $text .= $pieces[mt_rand(0, count($pieces) - 1)];
        }
        $text .= ['', '}', ']'][mt_rand(0, 2)];
        $whole = json_decode($text, true);
        foreach (['members', 'elements'] as $parts) {
            try {
                $read = array_map([Json::class, 'value'], Json::$parts($text));
            } catch (BadAnswer $bad) {
                $read = null;
            }
            if (is_array($whole) && ltrim($text, " \n")[0] === ($parts === 'members' ? '{' : '[')) {
                same($whole, $read, $text);
            }
        }
    }
    // Half characters and depth are in one part, whatever is in the strings beside it.
    $odd = '[{"data":"\ud83d","tags":{"a":"]}\\\\","data":",{"}},' . str_repeat('[', 9000) . str_repeat(']', 9000) . ',7]';
    same([strlen('{"data":"\ud83d","tags":{"a":"]}\\\\","data":",{"}}'), 18000, 1], array_map('strlen', Json::elements($odd)));
    $object = Json::object(Json::elements($odd)[0], 'data');
    same(['tags', 'unreadable'], array_keys($object));
    same(['a' => ']}\\', 'data' => ',{'], $object['tags']);
});

test('presence is an empty list where nobody is', function () use ($client): void {
    same(['count' => 0, 'members' => [], 'truncated' => false], array_diff_key($client()->presence('nobody'), ['cursor' => 0]));
});

test('faults of the caller are told apart from faults of the server', function () use ($client): void {
    $refused = throws(Refused::class, static fn () => $client()->publish('', 1));
    same([400, 'bad_request'], [$refused->status, $refused->error]);
    throws(TooLarge::class, static fn () => $client()->publish('x', str_repeat('x', 70000)));
    $client()->publish('x', 1, ['idempotency_key' => 'same']);
    throws(Conflict::class, static fn () => $client()->publish('x', 2, ['idempotency_key' => 'same']));
    throws(InvalidArgumentException::class, static fn () => $client()->publish('x', "\xFF"));
    throws(InvalidArgumentException::class, static fn () => $client()->publish('x', 17, ['kind' => 'text']));
});

test('one client asks many times over one connection', function () use ($client, $server): void {
    $one = $client();
    $one->now();
    $before = $server->stats();
    for ($n = 0; $n < 5; $n++) {
        $one->publish('kept-alive', $n);
    }
    same(5, count($server->texts('kept-alive')));
    $count = static fn (array $stats): int => (int) array_sum(array_filter(array_walk_recursive_of($stats, 'connections_total')));
    yes($count($server->stats()) - $count($before) <= 3, 'five publications took no five connections');
});

function array_walk_recursive_of(array $stats, string $name): array
{
    $found = [];
    foreach ($stats as $key => $value) {
        if (strpos((string) $key, $name) !== false && !is_array($value)) {
            $found[] = $value;
        } elseif (is_array($value)) {
            $found = array_merge($found, array_walk_recursive_of($value, $name));
        }
    }
    return $found;
}

test('a kept connection that the server has closed meanwhile is opened again', function (): void {
    $server = new Server();
    $client = new Client(['data_dir' => $server->data]);
    $client->publish('a', 1);
    $server->stop();
    $server->start();
    $client->publish('a', 2);
    same([1, 2], $server->texts('a'));
    $server->stop();
});

test('a browser subscribes with a token that was made here, and without one it does not', function (): void {
    $file = folder() . '/key';
    file_put_contents($file, SECRET . "\n");
    $config = folder() . '/comet.toml';
    file_put_contents($config, "[[tokens]]\nname = \"site\"\nsecret_file = \"$file\"\n");
    chmod($config, 0600);
    chmod($file, 0600);
    $server = new Server(['--config', $config]);
    $client = new Client(['data_dir' => $server->data, 'token_secret_file' => $file]);
    $ask = static fn (string $token): int => http("unix://$server->public", 'GET', '/v1/poll?wait_ms=0&channel=' . urlencode(ODD), $token === '' ? [] : ['Authorization' => "Bearer $token"])['status'];
    same(401, $ask(''));
    same(200, $ask($client->token(['user' => 'anna', 'channels' => [ODD]])));
    same(200, $ask($client->token(['patterns' => ['**'], 'kid' => 'site'])));
    same(403, $ask($client->token(['channels' => ['other']])));
    same(401, $ask($client->token(['channels' => [ODD], 'expires' => time() - 100])));
    $said = comet('token', 'inspect', $client->token(['user' => 'anna', 'channels' => ['x'], 'actions' => ['subscribe', 'history']]), '--config', $config);
    yes(strpos($said, 'anna') !== false && strpos($said, 'history') !== false, "the CLI understands it: $said");
    throws(InvalidArgumentException::class, static fn () => Token::create('short', ['channels' => ['x']]));
    throws(InvalidArgumentException::class, static fn () => Token::create(SECRET, []));
    $server->stop();
});

test('a server elsewhere is asked by its address, with a key', function (): void {
    $address = freeAddress();
    $config = folder() . '/comet.toml';
    file_put_contents($config, "[public]\nlisten = [\"$address\"]\nbase_path = \"/push\"\n[[keys]]\nname = \"site\"\nsecret = \"0123456789abcdef0123\"\nactions = [\"publish\", \"history\"]\n");
    chmod($config, 0600);
    $server = new Server(['--config', $config]);
    $client = new Client(['url' => "http://$address/push/", 'key' => '0123456789abcdef0123']);
    $client->publish('far', 'x');
    same('x', $client->history('far')['publications'][0]->data);
    throws(NotAllowed::class, static fn () => (new Client(['url' => "http://$address/push"]))->publish('far', 'x'));
    throws(InvalidArgumentException::class, static fn () => new Client(['url' => 'ftp://x']));
    $server->stop();
});

test('the socket is found by variable, else by the file, else in the default folder', function () use ($server): void {
    $run = static function (array $environment, string $code = 'echo (new CometServer\Client())->now();') use ($server): string {
        $script = folder() . '/find.php';
        file_put_contents($script, '<?php require ' . var_export(ROOT . '/clients/php/autoload.php', true) . '; try { ' . $code . ' } catch (Throwable $e) { echo $e->getMessage(); }');
        $process = new Process([PHP_BINARY, $script], $environment);
        until('it ends', static fn (): bool => !$process->isRunning());
        return $process->output();
    };
    $cursor = (new Client(['data_dir' => $server->data]))->now();
    same($cursor, $run(['COMETSERVER_SOCKET' => $server->socket]));
    same($cursor, $run(['COMETSERVER_DATA_DIR' => $server->data]));
    $file = folder() . '/comet-config.php';
    file_put_contents($file, '<?php return ' . var_export(['data_dir' => $server->data], true) . ';');
    same($cursor, $run([], 'echo (new CometServer\Client(["config_file" => ' . var_export($file, true) . ']))->now();'));
    $default = posix_geteuid() === 0 ? '/var/lib/cometserver' : folder('home') . '/.local/state/cometserver';
    yes(strpos($run(['COMETSERVER_SOCKET' => '', 'HOME' => folder('home')], 'echo CometServer\Locator::resolve([])["socket"];'), "$default/comet.sock") === 0, 'the default');
});

test('a server that is not running is told at once, and tryPublish throws nothing', function (): void {
    $client = new Client(['data_dir' => folder()]);
    $fault = throws(Unreachable::class, static fn () => $client->publish('a', 1));
    yes($fault->isNotRunning() && !$fault->slow, 'it is not running');
    yes(preg_match('~No server is running there: start it.*comet-config.php or with COMETSERVER_DATA_DIR~', $fault->getMessage()) === 1, 'and what to do');
    same(null, $client->tryPublish('a', 1));
    yes($client->lastError() instanceof Unreachable, 'and says why');
    same(null, $client->tryPublish('a', "\xFF"));
    yes($client->lastError() instanceof InvalidArgumentException, 'whatever is wrong');
    same('now', $client->tryNow());
});

test('nobody waits longer than the limit for a server that is silent, and then nobody at all for a while', function (): void {
    $socket = odd_server(static function ($stream): void {
        static $kept = [];
        $kept[] = $stream;
    });
    $options = ['socket' => $socket, 'data_dir' => dirname($socket), 'timeout' => 0.4, 'pause' => 1.0];
    $began = microtime(true);
    throws(TimedOut::class, static fn () => (new Client($options))->publish('a', 1));
    $took = microtime(true) - $began;
    yes($took >= 0.35 && $took < 3, "it took $took s");
    // Another request of the site: the file is shared.
    throws(Unreachable::class, static fn () => (new Client($options))->publish('a', 1));
    throws(Unreachable::class, static fn () => (new Client($options))->publish('a', 1));
    usleep(1050000);
    throws(TimedOut::class, static fn () => (new Client($options))->publish('a', 1));
    throws(Unreachable::class, static fn () => (new Client($options))->publish('a', 1));
});

test('the limit holds for the whole answer, however it trickles in', function (): void {
    $socket = odd_server(static function ($stream): void {
        while (@fwrite($stream, 'H') !== false && !feof($stream)) {
            usleep(50000);
            stream_set_blocking($stream, false);
            fread($stream, 1000);
        }
    });
    $began = microtime(true);
    throws(TimedOut::class, static fn () => (new Client(['socket' => $socket, 'timeout' => 0.5, 'pause' => 0]))->now());
    yes(microtime(true) - $began < 4, 'in time');
});

test('the pause ends with the first answer', function (): void {
    $answers = folder() . '/answers';
    $socket = odd_server(static function ($stream) use ($answers): void {
        static $kept = [];
        $kept[] = $stream;
        fread($stream, 1000);
        if (is_file($answers)) {
            fwrite($stream, "HTTP/1.1 200 OK\r\nContent-Length: 14\r\n\r\n{\"cursor\":\"c\"}");
        }
    });
    $client = static fn (): Client => new Client(['socket' => $socket, 'data_dir' => dirname($socket), 'timeout' => 0.3, 'pause' => 0.5]);
    throws(TimedOut::class, static fn () => $client()->now());
    touch($answers);
    throws(Unreachable::class, static fn () => $client()->now());
    usleep(550000);
    same(['c', 'c'], [$client()->now(), $client()->now()]);
});

test('a publication whose answer got lost is sent once more, and published once', function () use ($server): void {
    $socket = odd_server(static function ($stream, int $number) use ($server): void {
        $request = '';
        while (!preg_match('~\r\n\r\n\{.*\}\z~s', $request)) {
            $request .= fread($stream, 65536);
        }
        $behind = stream_socket_client("unix://$server->socket");
        fwrite($behind, $request);
        $answer = fread($behind, 65536);
        if ($number > 0) {
            fwrite($stream, $answer);
        }
        fclose($stream);
    });
    $answer = (new Client(['socket' => $socket]))->publish('lost', 'once');
    same(true, $answer['duplicate'] ?? false);
    same(['once'], $server->texts('lost'));
});

test('a second loss is not tried a third time', function (): void {
    $count = folder() . '/count';
    $socket = odd_server(static function ($stream) use ($count): void {
        fread($stream, 65536);
        file_put_contents($count, '.', FILE_APPEND);
        fclose($stream);
    });
    throws(CometServer\Exception\ConnectionLost::class, static fn () => (new Client(['socket' => $socket]))->publish('a', 1));
    same('..', file_get_contents($count));
});

test('what is no CometServer is told apart', function (): void {
    foreach (["HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", "HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n", "HTTP/1.1 404 No\r\nContent-Length: 14\r\n\r\n{\"error\":true}", "220 mail\r\n\r\n", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n"] as $bytes) {
        $socket = odd_server(static function ($stream) use ($bytes): void {
            fread($stream, 65536);
            fwrite($stream, $bytes);
            fclose($stream);
        });
        throws(BadAnswer::class, static fn () => (new Client(['socket' => $socket]))->now());
    }
});

test('an answer in chunks is put together', function (): void {
    $socket = odd_server(static function ($stream): void {
        fread($stream, 65536);
        fwrite($stream, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{\"cur\r\n9\r\nsor\":\"c\"}\r\n0\r\nX: y\r\n\r\n");
    });
    same('c', (new Client(['socket' => $socket]))->now());
});
