<?php

declare(strict_types=1);

namespace CometServer;

use CometServer\Exception\BadAnswer;
use CometServer\Exception\CannotRead;
use CometServer\Exception\CometException;
use CometServer\Exception\ConnectionLost;
use CometServer\Exception\NotFound;
use CometServer\Exception\Refused;
use CometServer\Exception\TimedOut;
use CometServer\Exception\Unreachable;

/**
 * What a site's own code does with a CometServer: publish, look, make tokens.
 *
 * It never makes a page wait for long: connecting takes at most 0.3 s, a whole call at most 2 s with its one retry, and for some
 * seconds after a call that took that long nobody is made to wait at all. Whatever goes wrong with the server is a
 * CometException; `tryPublish()` throws none.
 */
final class Client
{
    /** How long connecting may take, in seconds. */
    private const CONNECT_TIME = 0.3;

    /** How long a call may take, in seconds, its retry included. */
    private const CALL_TIME = 2.0;

    /** How long the server is left alone after a call that took too long, in seconds. */
    private const PAUSE = 5.0;

    private const JSON = JSON_UNESCAPED_SLASHES | JSON_UNESCAPED_UNICODE | JSON_PRESERVE_ZERO_FRACTION | JSON_THROW_ON_ERROR;

    /** @var array<string,mixed> */
    private array $options;
    private Http $http;
    private string $base = '';
    private ?string $key = null;
    private float $callTime;
    private Breaker $breaker;
    private bool $mayStart;
    private ?\Throwable $lastError = null;

    /**
     * @param array{socket?:string,data_dir?:string,url?:string,key?:string,connect_timeout?:float,timeout?:float,pause?:float,
     *              start?:bool,binary?:string,config?:string,config_file?:string,token_secret?:string,
     *              token_secret_file?:string,token_kid?:string} $options
     *        all optional; without `socket`, `data_dir` or `url` see Locator. `url`: `https://push.example.org`, with `key`.
     *        `start`: start the server of this machine if it is not running
     */
    public function __construct(array $options = [])
    {
        Needs::check();
        $this->options = Locator::resolve($options);
        $this->callTime = (float) ($options['timeout'] ?? self::CALL_TIME);
        $connectTime = (float) ($options['connect_timeout'] ?? self::CONNECT_TIME);
        $this->key = isset($this->options['key']) ? (string) $this->options['key'] : null;
        [$target, $host] = $this->target();
        $this->http = new Http($target, $host, $connectTime, $this->options['looked'] ?? '');
        $this->mayStart = !isset($this->options['url']) && !empty($this->options['start']);
        $starter = self::starter();
        $folder = $starter ? \CometServerStart::stateFolder(['data_dir' => $this->options['data_dir']]) : null;
        $this->breaker = new Breaker($target, (float) ($options['pause'] ?? self::PAUSE), $folder);
    }

    /**
     * Publishes a message, and gives its place once subscribers see it.
     *
     * @param string|string[]     $channels one channel or several; who listens to two of them gets it once
     * @param mixed               $data     anything that JSON can say; with `kind` text or binary, a string
     * @param array<string,mixed> $options  `kind` (json, text, binary), `event`, `id`, `retain`, `tags`, `idempotency_key`,
     *                                      `exclude_session`
     *
     * @return array{channels:list<array{channel:string,offset:int,epoch:string}>,cursor:string,duplicate?:bool}
     *
     * @throws CometException
     */
    public function publish($channels, $data, array $options = []): array
    {
        $request = self::publication($channels, $data, $options);
        return $this->json($this->call('POST', '/v1/publish', [], self::encode($request), true));
    }

    /**
     * The same, and never throws: whether it was published matters less than the page.
     *
     * @param string|string[]     $channels
     * @param mixed               $data
     * @param array<string,mixed> $options
     *
     * @return array<string,mixed>|null as `publish()`, or `null`; `lastError()` says why
     */
    public function tryPublish($channels, $data, array $options = []): ?array
    {
        try {
            $this->lastError = null;
            return $this->publish($channels, $data, $options);
        } catch (\Throwable $error) {
            $this->lastError = $error;
            return null;
        }
    }

    /** Why the last `tryPublish()` gave `null`. */
    public function lastError(): ?\Throwable
    {
        return $this->lastError;
    }

    /**
     * Publishes several messages in one request.
     *
     * @param iterable<array<string,mixed>> $publications each with `channel` or `channels`, `data`, and the options of `publish()`
     *
     * @return list<array<string,mixed>|Refused> for each its place as `publish()` gives it, or why it was refused
     *
     * @throws CometException
     */
    public function publishMany(iterable $publications): array
    {
        $requests = [];
        foreach ($publications as $publication) {
            $channels = $publication['channels'] ?? $publication['channel'] ?? '';
            $data = $publication['data'] ?? null;
            unset($publication['channel'], $publication['channels'], $publication['data']);
            $requests[] = self::publication($channels, $data, $publication);
        }
        if ($requests === []) {
            return [];
        }
        $answer = $this->json($this->call('POST', '/v1/batch', [], self::encode(['publications' => $requests]), true));
        $results = [];
        foreach ($answer['results'] ?? [] as $result) {
            $error = $result['error'] ?? null;
            $results[] = $error === null
                ? $result
                : Refused::of((int) $error['status'], (string) $error['code'], (string) $error['detail'], null);
        }
        if (count($results) !== count($requests)) {
            throw new BadAnswer('the answer to a batch has another number of results');
        }
        return $results;
    }

    /**
     * The retained value of a channel, or `null`: what was last published with `retain`, or written with `comet write`.
     *
     * @throws CannotRead if there is one that PHP cannot read
     * @throws CometException
     */
    public function read(string $channel): ?Message
    {
        try {
            $body = $this->call('GET', '/v1/retained', ['channel' => $channel]);
        } catch (NotFound $nothing) {
            return null;
        }
        $object = Json::object($body, 'data');
        if (isset($object['unreadable'])) {
            throw new CannotRead(new Unreadable($object, $body));
        }
        return new Message($object);
    }

    /**
     * What a channel has kept, oldest first.
     *
     * @param array{since?:string,limit?:int,reverse?:bool} $options `since`: a cursor; give the `cursor` of the answer to go on
     *
     * @return array{publications:Message[],unreadable:Unreadable[],cursor:string,gap:bool,offset:int,epoch:string}
     *         `unreadable`: messages that were stepped over, since PHP cannot read them; `gap`: something after `since` is gone
     *
     * @throws CometException
     */
    public function history(string $channel, array $options = []): array
    {
        $query = ['channel' => $channel] + array_intersect_key($options, ['since' => 0, 'limit' => 0]);
        if (!empty($options['reverse'])) {
            $query['reverse'] = '1';
        }
        [$answer, $parts] = self::listed($this->call('GET', '/v1/history', $query), 'publications', 'data');
        $publications = $unreadable = [];
        foreach ($answer['publications'] as $index => $object) {
            if (isset($object['unreadable'])) {
                $unreadable[] = new Unreadable($object, $parts[$index]);
            } else {
                $publications[] = new Message($object);
            }
        }
        return [
            'publications' => $publications,
            'unreadable' => $unreadable,
            'cursor' => (string) ($answer['cursor'] ?? ''),
            'gap' => (bool) ($answer['gap'] ?? false),
            'offset' => (int) ($answer['offset'] ?? 0),
            'epoch' => (string) ($answer['epoch'] ?? ''),
        ];
    }

    /**
     * Who is on a channel.
     *
     * @return array{count:int,members:list<array{user:string,connections:int,info?:mixed,unreadable?:string}>,truncated:bool,cursor:string}
     *         `unreadable`: why PHP cannot read the member's `info`, which is left out then
     *
     * @throws CometException
     */
    public function presence(string $channel, int $limit = 1000): array
    {
        [$answer] = self::listed($this->call('GET', '/v1/presence', ['channel' => $channel, 'limit' => $limit]), 'members', 'info');
        return [
            'count' => (int) ($answer['count'] ?? 0),
            'members' => $answer['members'],
            'truncated' => (bool) ($answer['truncated'] ?? false),
            'cursor' => (string) ($answer['cursor'] ?? ''),
        ];
    }

    /**
     * The cursor of now: put it into a page that shows how things stand, and its browser starts from there.
     *
     * The page is of this moment, so it is sent with `Cache-Control: no-store`, if its headers are not sent yet.
     *
     * @throws CometException
     */
    public function now(): string
    {
        $cursor = (string) ($this->json($this->call('GET', '/v1/now'))['cursor'] ?? '');
        // Either may be among a host's disable_functions.
        if (function_exists('headers_sent') && function_exists('header') && !headers_sent()) {
            header('Cache-Control: no-store');
        }
        return $cursor;
    }

    /**
     * The same for a page that must not fail: the word `now` if the server does not answer.
     */
    public function tryNow(): string
    {
        try {
            $this->lastError = null;
            return $this->now();
        } catch (\Throwable $error) {
            $this->lastError = $error;
            return 'now';
        }
    }

    /**
     * Forgets the retained value of a channel. Was there one?
     *
     * @throws CometException
     */
    public function delete(string $channel): bool
    {
        return (bool) ($this->json($this->call('DELETE', '/v1/retained', ['channel' => $channel]))['deleted'] ?? false);
    }

    /**
     * Forgets all that a channel has kept, its retained value too. How many messages were there?
     *
     * @throws CometException
     */
    public function deleteHistory(string $channel): int
    {
        return (int) ($this->json($this->call('DELETE', '/v1/history', ['channel' => $channel]))['deleted'] ?? 0);
    }

    /**
     * A token for a browser; see Token::create(). The secret is the option `token_secret`, or in the file `token_secret_file`.
     *
     * @param array<string,mixed> $grant
     */
    public function token(array $grant): string
    {
        $secret = $this->options['token_secret'] ?? null;
        $file = $this->options['token_secret_file'] ?? null;
        if ($secret === null && $file !== null) {
            $text = @file_get_contents($file);
            if ($text === false) {
                throw new \InvalidArgumentException("the secret of tokens cannot be read: $file");
            }
            // As the server reads it: without the final newline.
            $secret = preg_replace('~\r?\n\z~', '', $text);
        }
        if ($secret === null) {
            throw new \InvalidArgumentException('no secret for tokens: give token_secret or token_secret_file');
        }
        return Token::create((string) $secret, $grant + array_filter(['kid' => $this->options['token_kid'] ?? null]));
    }

    /**
     * @param string|string[]     $channels
     * @param mixed               $data
     * @param array<string,mixed> $options
     *
     * @return array<string,mixed>
     */
    private static function publication($channels, $data, array $options): array
    {
        $kind = $options['kind'] ?? 'json';
        if ($kind !== 'json' && !is_string($data)) {
            throw new \InvalidArgumentException("the data of a $kind message is a string");
        }
        $request = is_array($channels) ? ['channels' => array_values($channels)] : ['channel' => (string) $channels];
        $request['data'] = $kind === 'binary' ? base64_encode($data) : $data;
        $request['kind'] = $kind;
        foreach (['event', 'id', 'exclude_session'] as $name) {
            if (isset($options[$name])) {
                $request[$name] = (string) $options[$name];
            }
        }
        if (!empty($options['retain'])) {
            $request['retain'] = true;
        }
        if (!empty($options['tags'])) {
            $request['tags'] = (object) array_map('strval', $options['tags']);
        }
        // With a key of its own a request may be sent again, however the first time ended.
        $request['idempotency_key'] = (string) ($options['idempotency_key'] ?? bin2hex(random_bytes(16)));
        return $request;
    }

    /** @param array<string,mixed> $value */
    private static function encode(array $value): string
    {
        try {
            return json_encode($value, self::JSON);
        } catch (\JsonException $error) {
            throw new \InvalidArgumentException('this cannot be said in JSON: ' . $error->getMessage() . '; bytes go as kind binary', 0, $error);
        }
    }

    /**
     * @param array<string,string|int> $query
     *
     * @return string the body of a good answer
     */
    private function call(string $method, string $path, array $query = [], string $body = '', bool $repeatable = false): string
    {
        if (!$this->breaker->allows()) {
            throw new Unreachable('the server did not answer in time some seconds ago: it is left alone for a moment');
        }
        $headers = ['Accept' => 'application/json'];
        if ($body !== '') {
            $headers['Content-Type'] = 'application/json';
        }
        if ($this->key !== null) {
            $headers['Authorization'] = 'Bearer ' . $this->key;
        }
        $target = $this->base . $path . ($query === [] ? '' : '?' . http_build_query($query, '', '&'));
        try {
            $answer = $this->exchange($method, $target, $headers, $body, $repeatable || $method === 'GET' || $method === 'DELETE');
        } catch (TimedOut $fault) {
            $this->breaker->open();
            throw $fault;
        } catch (Unreachable $fault) {
            if ($fault->slow) {
                $this->breaker->open();
            }
            throw $fault;
        }
        $this->breaker->close();
        if ($answer['status'] < 200 || $answer['status'] > 299) {
            throw self::refusal($answer);
        }
        return $answer['body'];
    }

    /**
     * @param array<string,string> $headers
     *
     * @return array{status:int,headers:array<string,string>,body:string}
     */
    private function exchange(string $method, string $target, array $headers, string $body, bool $repeatable): array
    {
        $deadline = Http::clock() + $this->callTime;
        $retries = 1;
        while (true) {
            $kept = $this->http->isOpen();
            try {
                return $this->http->exchange($method, $target, $headers, $body, $deadline);
            } catch (ConnectionLost $lost) {
                // A kept connection that the server has closed meanwhile is no attempt.
                if (!$repeatable || (!$kept && $retries-- <= 0)) {
                    throw $lost;
                }
            } catch (Unreachable $fault) {
                if (!$this->mayStart || !$fault->isNotRunning() || !self::starter()) {
                    throw $fault;
                }
                $this->mayStart = false;
                $result = \CometServerStart::ensure($this->options);
                if (!$result['running']) {
                    throw new Unreachable($fault->getMessage() . '; ' . $result['message'], $fault->errno);
                }
                $deadline = Http::clock() + $this->callTime;
            }
        }
    }

    /** @param array{status:int,headers:array<string,string>,body:string} $answer */
    private static function refusal(array $answer): CometException
    {
        $problem = json_decode($answer['body'], true);
        if (!is_array($problem) || !isset($problem['code'])) {
            return new BadAnswer("HTTP status {$answer['status']}, and not from a CometServer");
        }
        $after = $answer['headers']['retry-after'] ?? null;
        $detail = (string) ($problem['detail'] ?? $problem['title'] ?? '');
        return Refused::of($answer['status'], (string) $problem['code'], $detail, $after === null ? null : (int) $after);
    }

    /** @return array<string,mixed> */
    private function json(string $body): array
    {
        $value = json_decode($body, true);
        if (!is_array($value)) {
            throw new BadAnswer('the answer is not JSON');
        }
        return $value;
    }

    /**
     * An answer with a list of objects, of each of which the member `$odd` may be beyond reading, see Json::object().
     *
     * @return array{array<string,mixed>,list<string>} the answer; if it could not be read at once, the JSON of each object
     */
    private static function listed(string $body, string $list, string $odd): array
    {
        $value = json_decode($body, true);
        if (is_array($value)) {
            return [$value + [$list => []], []];
        }
        $members = Json::members($body);
        $parts = Json::elements($members[$list] ?? '');
        unset($members[$list]);
        $answer = array_map([Json::class, 'value'], $members);
        $answer[$list] = array_map(static fn (string $part): array => Json::object($part, $odd), $parts);
        return [$answer, $parts];
    }

    /** @return array{string,string} where to connect, and what to call it in `Host` */
    private function target(): array
    {
        $url = $this->options['url'] ?? null;
        if ($url === null) {
            return ['unix://' . $this->options['socket'], 'localhost'];
        }
        $parts = parse_url((string) $url);
        $secure = ($parts['scheme'] ?? '') === 'https';
        if (!isset($parts['host']) || (!$secure && ($parts['scheme'] ?? '') !== 'http')) {
            throw new \InvalidArgumentException("the url $url is not like https://push.example.org");
        }
        $this->base = rtrim($parts['path'] ?? '', '/');
        $port = $parts['port'] ?? ($secure ? 443 : 80);
        $host = $parts['host'] . (isset($parts['port']) ? ":$port" : '');
        return [($secure ? 'tls' : 'tcp') . "://{$parts['host']}:$port", $host];
    }

    /** Is the class there that starts servers? Its file is beside this folder. */
    private static function starter(): bool
    {
        if (!class_exists('CometServerStart', false) && is_file(dirname(__DIR__) . '/start.php')) {
            require_once dirname(__DIR__) . '/start.php';
        }
        return class_exists('CometServerStart', false);
    }
}
