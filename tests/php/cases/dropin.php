<?php
/** The drop-in folder: applications written to both older versions, unchanged. */

declare(strict_types=1);

require __DIR__ . '/../lib.php';
putenv('COMETSERVER_SOCKET');

const LIST_KEY = 'a%3A1%3A%7Bi%3A0%3Bs%3A21%3A%22ali.hichem%2540mail.com%22%3B%7D';

/** Texts that something on the way might mangle. */
const ODD_TEXTS = ['two words', 'ünï €', "quotes ' \" ` \$x \\", '100 % + 1 %2B %25', "lines\nand\ttabs\r\nand CR\r", '<b onclick="x">&amp;</b>', 'a]]>b]]>', 'value: within', "\0a\0", '  outer blanks  ', "\x01\x08control", "\xFF\xFEnot UTF-8\xC3", '0'];

$server = new Server();
$class = ['v1' => 'CometWebInterface', 'v2' => 'Comet\Web\CInterface'];
$entrance = ['v1' => 'lib/CometAutoloader.class.php', 'v2' => 'config/bootstrap.php'];

/** A document root with the folder as somebody uploads it, and the applications in it. */
function site(Server $server, array $config = []): string
{
    $root = folder();
    copy_all(ROOT . '/clients/php/drop-in', "$root/comet");
    copy(ROOT . '/clients/php/start.php', "$root/comet/start.php");
    copy_all(__DIR__ . '/../apps', "$root/comet/exemples");
    copy(ROOT . '/clients/php/bridge.php', "$root/bridge.php");
    copy(ROOT . '/clients/php/start.php', "$root/start.php");
    file_put_contents("$root/comet-config.php", '<?php return ' . var_export($config + ['data_dir' => $server->data], true) . ';');
    file_put_contents("$root/page.php", '<?php echo "an ordinary page";');
    return $root;
}

/** What a script with the folder prints; warnings are part of that. */
function script(string $entrance, string $code, Server $server, array $settings = []): string
{
    $file = folder() . '/script.php';
    file_put_contents($file, '<?php require ' . var_export(ROOT . "/clients/php/drop-in/$entrance", true) . "; $code");
    $command = escapeshellarg(PHP_BINARY) . ' -n -d extension=posix -d html_errors=0 -d error_reporting=32767 -d display_errors=1';
    foreach ($settings as $setting) {
        $command .= ' -d ' . escapeshellarg($setting);
    }
    return (string) shell_exec('COMETSERVER_DATA_DIR=' . escapeshellarg($server->data) . " $command " . escapeshellarg($file) . ' 2>&1');
}

function parsed(string $xml): DOMDocument
{
    $document = new DOMDocument();
    yes($document->loadXML($xml), 'well formed: ' . shown($xml));
    return $document;
}

function element(DOMNode $in, string $name): ?string
{
    foreach ($in->childNodes as $child) {
        if ($child->nodeName === $name) {
            return $child->textContent;
        }
    }
    return null;
}

/** A page in a browser: its own script, or ours, which brings a cursor. */
final class Page
{
    public array $shown = [];
    public int $asked = 0;
    private Web $web;
    private string $path;
    private ?string $cursor;
    private array $cookies = [];
    private ?string $time = null;
    private ?FastCgi $pending = null;
    private float $again = 0;

    public function __construct(Web $web, string $path, bool $ours)
    {
        [$this->web, $this->path, $this->cursor] = [$web, $path, $ours ? '' : null];
        if ($ours) {
            $page = $web->get(dirname($path) . '/index.php')['body'];
            yes(preg_match('~data-comet-cursor="([^"]+)"~', $page, $match), "the page has a cursor: $page");
            $this->cursor = $match[1];
        }
    }

    /** Does whatever can be done now. */
    public function turn(): void
    {
        if ($this->pending === null && microtime(true) >= $this->again) {
            $headers = $this->cookies === [] ? [] : ['Cookie' => implode('; ', $this->cookies)];
            $this->pending = $this->web->begin($this->path . '?_=1' . ($this->cursor === null ? '' : '&comet_cursor=' . urlencode($this->cursor)), $headers);
            $this->asked++;
        }
        if ($this->pending !== null && $this->pending->ended()) {
            $answer = $this->pending->answer();
            $this->pending = null;
            foreach ($answer['cookies'] as $cookie) {
                $this->cookies[explode('=', $cookie)[0]] = $cookie;
            }
            same('text/xml', explode(';', $answer['headers']['content-type'])[0]);
            $root = parsed($answer['body'])->documentElement;
            if ($this->cursor === null) {
                yes(element($root, 'cursor') === null, 'no cursor for an old page');
                $this->show($root);
                $this->again = microtime(true) + 0.05;
            } else {
                $this->show($root);
                foreach ($root->childNodes as $child) {
                    if ($child->nodeName === 'message') {
                        $this->show($child);
                    }
                }
                $this->cursor = element($root, 'cursor') ?? $this->cursor;
                $this->again = microtime(true) + ($answer['headers']['x-comet-retry-ms'] ?? 50) / 1000;
            }
        }
    }

    /** As the older script does, without its trimming. */
    private function show(DOMNode $in): void
    {
        $data = element($in, 'data');
        $time = element($in, 'time');
        if (strpos($data, 'value: ') === 0 && $time !== $this->time) {
            $this->time = $time;
            $this->shown[] = substr($data, 7);
        }
    }

    public function isWaiting(): bool
    {
        return $this->pending !== null;
    }

    public function close(): void
    {
        if ($this->pending !== null) {
            $this->pending->hangUp();
        }
    }
}

/** Lets pages live until it is so. */
function live(array $pages, string $what, callable $is): void
{
    until($what, static function () use ($pages, $is): bool {
        foreach ($pages as $page) {
            $page->turn();
        }
        return $is();
    });
}

/** As XML gives it back. */
function carried(string $text): string
{
    $text = preg_replace('~\xFF\xFEnot UTF-8\xC3~', "\u{FFFD}\u{FFFD}not UTF-8\u{FFFD}", $text);
    return preg_replace('~[\x00-\x08\x0B\x0C\x0E-\x1F]~', "\u{FFFD}", $text);
}

foreach (['v1', 'v2'] as $version) {
    $new = static fn (string $rest): string => '$w = new ' . $class[$version] . "($rest);";

    test("$version: keys become names as they always did", function () use ($version, $server, $new, $entrance): void {
        $out = script($entrance[$version], $new('') . ' foreach (array(5, 1.5, "12", "key with space", array("ali.hichem@mail.com"), array(1, "é")) as $k) { echo $w->cleanKey($k), "\n"; }
            foreach (array(array("a" => 1), array(), null, true, new stdClass) as $k) { try { $w->cleanKey($k); echo "taken\n"; } catch (Exception $e) { echo get_class($e), "\n"; } }
            $w->setKey("k"); echo $w->getKey();', $server);
        same("5\n1.5\n12\nkey+with+space\n" . LIST_KEY . "\n" . urlencode(serialize(['1', '%C3%A9'])) . "\nException\nException\nException\nException\nException\nk", $out);
    });

    test("$version: any text that is written is read again, exactly", function () use ($version, $server, $new, $entrance): void {
        $texts = var_export(ODD_TEXTS, true);
        $out = script($entrance[$version], $new('array(), "odd"') . "foreach ($texts as \$i => \$t) { if (\$w->write(\$t) !== '') echo 'failed '; if (\$w->readOnce('odd') !== 'value: ' . \$t) echo \$i, ' ', var_export(\$w->readOnce('odd'), true); }
            echo \$w->write(''), \$w->readOnce('odd'), '|', \$w->readOnce('there is none'), '|', \$w->write(17), \$w->readOnce('odd');", $server);
        same('value:|value:|value: 17', $out);
    });

    test("$version: the command line, the older wire and the page agree on every text", function () use ($version, $server, $new, $entrance): void {
        foreach (['a b+c%20', 'é"\'$', "x\ny"] as $text) {
            $server->cli('write', 'shared', $text);
            same("value: $text", script($entrance[$version], $new('') . 'echo $w->readOnce("shared");', $server));
            script($entrance[$version], $new('array(), "shared"') . '$w->write(' . var_export("$text!", true) . ');', $server);
            same("value: $text!\n", $server->cli('read', 'shared'));
            same(urlencode(urlencode("$text!")) . " \0", wire($server, "read shared \0"));
            same("ok \0", wire($server, 'write shared ' . urlencode(urlencode("$text?")) . " \0"));
            same("value: $text?", script($entrance[$version], $new('') . 'echo $w->readOnce("shared");', $server));
        }
    });

    test("$version: the time of a key is read as seconds", function () use ($version, $server, $new, $entrance): void {
        $out = script($entrance[$version], $new('array(), "timed"') . '$w->write("x"); echo $w->readOnce("timed-time");', $server);
        yes(preg_match('~^value: (\d+)$~', $out, $match) && abs($match[1] - time()) < 60, $out);
        $out = script($entrance[$version], $new('array(), "own-time"') . '$w->write("mine"); echo $w->readOnce("own-time");', $server);
        same('value: mine', $out);
    });

    test("$version: read() gives up with nothing when its time is over, and not before", function () use ($version, $server, $new, $entrance, $class): void {
        $out = script($entrance[$version], $new('array("runTimeLimit" => 1), "quiet"') . '$b = microtime(true); $r = $w->read(); $t = microtime(true) - $b; var_dump($r, $t >= 1 && $t <= 7);', $server);
        same("string(0) \"\"\nbool(true)\n", $out);
        same('25', script($entrance[$version], 'echo ' . $class[$version] . '::LIMIT;', $server));
    });

    test("$version: read() sees a write, the same text once more, a refresh, and what others write", function () use ($version, $server, $new, $entrance): void {
        $key = "seen-$version";
        $server->cli('write', $key, 'old');
        foreach (['$o->write("new");' => 'new', '$o->write("new"); ' => 'new', '$o->refresh();' => 'new', '' => 'by the CLI'] as $code => $expected) {
            $process = read_beside($entrance[$version], $new('array("runTimeLimit" => 10), "' . $key . '"'), $server);
            if ($code === '') {
                $server->cli('write', $key, 'by the CLI');
            } else {
                same('', script($entrance[$version], str_replace('$w', '$o', $new('array(), "' . $key . '"')) . $code, $server));
            }
            until('it ends', static fn (): bool => !$process->isRunning());
            same("[value: $expected]", $process->output());
        }
    });

    test("$version: a failure is told in plain words", function () use ($version, $new, $entrance): void {
        $none = new class (folder()) {
            public string $data;
            public function __construct(string $data)
            {
                $this->data = $data;
            }
        };
        $file = folder() . '/x.php';
        file_put_contents($file, '<?php require ' . var_export(ROOT . '/clients/php/drop-in/' . $entrance[$version], true) . ';' . $new('array(), "k"') . 'echo $w->write("x"), "|", $w->refresh(), "|", $w->readOnce("k");');
        $out = shell_exec('COMETSERVER_DATA_DIR=' . escapeshellarg($none->data) . ' ' . escapeshellarg(PHP_BINARY) . ' ' . escapeshellarg($file) . ' 2>&1');
        same(3, substr_count($out, 'Server is not running'), $out);
        yes(strpos($out, "\033") === false, 'without colours');
    });

    test("$version: it works where no process may be started and only its folder may be seen", function () use ($version, $server, $new, $entrance): void {
        $out = script($entrance[$version], $new('array("runTimeLimit" => 1), "strict"') . 'echo $w->write("x"), $w->readOnce("strict"), $w->read();', $server,
            ['disable_functions=exec,passthru,shell_exec,system,popen,proc_open,set_time_limit,ini_set,ignore_user_abort,error_log', 'open_basedir=' . realpath(ROOT . '/clients/php/drop-in') . ':' . dirname(folder())]);
        same('value: x', $out);
    });

    test("$version: pages with our script show every message once and in order", function () use ($version): void {
        $server = new Server();
        $web = new Web(site($server));
        $path = "/comet/exemples/$version/read.php";
        $write = static fn (string $text): string => $web->post("/comet/exemples/$version/write.php", 'comet-text=' . urlencode($text))['body'];
        $web->post("/comet/exemples/$version/write.php", 'comet-text=old');
        $pages = [new Page($web, $path, true), new Page($web, $path, true)];
        // Written after the pages were made, before they asked.
        same('[]', $write('first'));
        live($pages, 'the first', fn (): bool => count($pages[0]->shown) === 1 && count($pages[1]->shown) === 1);
        $texts = ['first'];
        for ($n = 0; $n < 20; $n++) {
            $texts[] = $text = "burst $n";
            $write($text);
            $n % 7 === 0 && array_map(static fn (Page $page) => $page->turn(), $pages);
        }
        foreach (ODD_TEXTS as $text) {
            $write($text);
            $texts[] = carried($text);
        }
        same('[]', $web->post("/comet/exemples/$version/write.php", 'frm-comet-refresh=true')['body']);
        $texts[] = end($texts);
        live($pages, 'all of them', fn (): bool => count($pages[0]->shown) >= count($texts) && count($pages[1]->shown) >= count($texts));
        same($texts, $pages[0]->shown);
        same($texts, $pages[1]->shown);
        same('value: 0', $web->get("/comet/exemples/$version/once.php")['body']);
        $new = new Page($web, $path, true);
        live([$new], 'a new page waits', fn (): bool => $new->isWaiting() && $server->held() > 0);
        same([], $new->shown);
        foreach ($pages as $page) {
            $page->close();
        }
    });

    test("$version: a page with the older script shows at least the last message, and nothing twice", function () use ($version): void {
        $server = new Server();
        $web = new Web(site($server));
        $page = new Page($web, "/comet/exemples/$version/read.php", false);
        $web->post("/comet/exemples/$version/write.php", 'comet-text=old');
        live([$page], 'it waits', fn (): bool => $server->held() > 0);
        same([], $page->shown);
        for ($n = 0; $n < 20; $n++) {
            $web->post("/comet/exemples/$version/write.php", "comet-text=burst+$n");
        }
        live([$page], 'the last', fn (): bool => in_array('burst 19', $page->shown, true));
        same($page->shown, array_values(array_unique($page->shown)));
        // After a while it waits again, and does not ask twenty times a second until then.
        $asked = $page->asked;
        $quiet = microtime(true) + 4;
        live([$page], 'some seconds', fn (): bool => microtime(true) > $quiet);
        yes($page->asked - $asked < 20, 'it asked ' . ($page->asked - $asked) . ' times');
        same('burst 19', end($page->shown));
        $page->close();
    });

    test("$version: pages live through a restart of the server", function () use ($version): void {
        $server = new Server();
        $web = new Web(site($server));
        $pages = [new Page($web, "/comet/exemples/$version/read.php", true), new Page($web, "/comet/exemples/$version/read.php", false)];
        $write = static fn (string $text): string => $web->post("/comet/exemples/$version/write.php", "comet-text=$text")['body'];
        live($pages, 'both wait', fn (): bool => $server->held() >= 2);
        $write('before');
        live($pages, 'before', fn (): bool => $pages[0]->shown === ['before'] && $pages[1]->shown === ['before']);
        $server->stop();
        yes(strpos($write('lost'), 'not running') !== false, 'it is down');
        $down = microtime(true) + 1;
        live($pages, 'a second without it', fn (): bool => microtime(true) > $down);
        $server->start();
        live($pages, 'both wait again', fn (): bool => $server->held() >= 2);
        $write('after');
        live($pages, 'after', fn (): bool => $pages[0]->shown === ['before', 'after'] && $pages[1]->shown === ['before', 'after']);
        foreach ($pages as $page) {
            $page->close();
        }
        $server->stop();
    });

    test("$version: the script element carries address and function, escaped, and a cursor", function () use ($version, $server): void {
        $web = new Web(site($server));
        $body = $web->get("/comet/exemples/$version/index.php")['body'];
        yes(preg_match('~<script type="text/javascript"[^>]* data-comet-url="read.php" data-comet-function="notify" data-comet-cursor="[\w-]+">~', $body), $body);
        $helper = ['v1' => 'CometWebJsHelper', 'v2' => 'Comet\Web\JsHelper'][$version];
        $out = script(['v1' => 'lib/CometAutoloader.class.php', 'v2' => 'config/bootstrap.php'][$version], "var_dump($helper::create()->renderJsTag('\"></script><b>', 'a&\"b'));", $server);
        yes(strpos($out, 'data-comet-url="&quot;&gt;&lt;/script&gt;&lt;b&gt;" data-comet-function="a&amp;&quot;b"') !== false, $out);
        yes(substr($out, -5) === "NULL\n", 'it prints and gives nothing');
        is_dir("$web->root/comet/js") || mkdir("$web->root/comet/js");
        file_put_contents($web->root . '/comet/js/seed-helper.js', '// the script');
        $body = $web->get("/comet/exemples/$version/index.php")['body'];
        yes(strpos($body, ' src="/comet/js/seed-helper.js"') !== false, $body);
    });

    test("$version: a session does not make the visitor's next page wait", function () use ($version): void {
        $server = new Server();
        $web = new Web(site($server), ['session.save_path=' . folder()]);
        $cookie = ['Cookie' => 'PHPSESSID=abcdefabcdefabcdefabcdef01'];
        $waiting = $web->begin("/comet/exemples/$version/wait.php", $cookie);
        until('it waits', fn (): bool => $server->held() > 0);
        same('an ordinary page', $web->get("/comet/exemples/$version/other.php", $cookie)['body']);
        yes(!$waiting->ended(), 'it waits still');
        $server->cli('write', 'own+key', 'done');
        same('[value: done]', $waiting->answer()['body']);
    });
}

/** Starts a script that reads, and comes back when it waits. */
function read_beside(string $entrance, string $new, Server $server): Process
{
    $file = folder() . '/read.php';
    file_put_contents($file, '<?php require ' . var_export(ROOT . "/clients/php/drop-in/$entrance", true) . "; $new echo '[', \$w->read(), ']';");
    $before = $server->held();
    $process = new Process([PHP_BINARY, $file], ['COMETSERVER_DATA_DIR' => $server->data]);
    until('it waits', fn (): bool => $server->held() > $before);
    return $process;
}

function wire(Server $server, string $request): string
{
    $stream = stream_socket_client("unix://$server->socket");
    fwrite($stream, $request);
    return stream_get_contents($stream);
}

test('the XML is the older one to the byte, with a time that every write has for itself', function (): void {
    $server = new Server();
    $web = new Web(site($server));
    $waiting = $web->begin('/comet/exemples/v1/read.php');
    until('it waits', fn (): bool => $server->held() > 0);
    $web->post('/comet/exemples/v1/write.php', 'comet-text=' . urlencode('a & ]]> é'));
    $body = $waiting->answer()['body'];
    yes(preg_match('~<time><!\[CDATA\[(\d+\.\d+)\]\]></time>~', $body, $match), $body);
    same("<?xml version=\"1.0\" encoding=\"utf-8\"?>\n<comet>\n  <data><![CDATA[value: a & ]]]]><![CDATA[> é]]></data>\n  <time><![CDATA[$match[1]]]></time>\n</comet>\n", $body);
    yes(abs((int) $match[1] - time()) < 60, 'in seconds');
    $waiting = $web->begin('/comet/exemples/v1/read.php?comet_cursor=');
    until('it waits', fn (): bool => $server->held() > 0);
    $web->post('/comet/exemples/v1/write.php', 'comet-text=x');
    $document = parsed($waiting->answer()['body'])->documentElement;
    yes(preg_match('~^[\w-]+$~', element($document, 'cursor')), 'a cursor for who asks with one');
    yes(element($document, 'message') === null, 'one message needs no list');
    for ($n = 0, $times = []; $n < 50; $n++) {
        wire($server, "write fast v \0");
        $value = json_decode(http("unix://$server->socket", 'GET', '/v1/retained?channel=fast')['body'], true);
        require_once ROOT . '/clients/php/drop-in/lib/Comet/Internal/Value.php';
        $times[] = Comet\Internal\Value::time($value);
    }
    same($times, array_unique($times));
    $at = static fn (int $time, int $offset): string => Comet\Internal\Value::time(['time' => $time, 'offset' => $offset]);
    same(['1700000000.123000001', '1700000000.123000002'], [$at(1700000000123, 1), $at(1700000000123, 2)]);
});

test('a cursor that no server gave begins anew instead of failing for ever', function (): void {
    $server = new Server();
    $web = new Web(site($server));
    $answer = $web->get('/comet/exemples/v2/read.php?comet_cursor=rubbish');
    same(200, $answer['status']);
    same('', element(parsed($answer['body'])->documentElement, 'cursor'));
    $waiting = $web->begin('/comet/exemples/v2/read.php?comet_cursor[]=x');
    until('it waits', fn (): bool => $server->held() > 0);
    $server->cli('write', LIST_KEY, 'fine');
    yes(strpos($waiting->answer()['body'], 'value: fine') !== false, 'neither does an odd parameter');
    $waiting = $web->begin('/comet/exemples/v2/read.php?comet_cursor=rubbish%0A');
    until('it waits', fn (): bool => $server->held() > 0);
    $server->cli('write', LIST_KEY, 'finer');
    yes(strpos($waiting->answer()['body'], 'value: finer') !== false, 'nor one with a line break, which never gets to the server');
});

test('the same session asking anew ends the older request, and a page that leaves gives its place back', function (): void {
    // Held for so long that nothing ends by itself while the test waits for it.
    $server = new Server(has_gateways() ? ['--set', 'held.drop_in.hold=25s'] : []);
    $web = new Web(site($server));
    $path = '/comet/exemples/v1/read.php?comet_cursor=&comet_session=abc';
    $old = $web->begin($path);
    until('it waits', fn (): bool => $server->held() === 1);
    $new = $web->begin($path);
    yes(strpos($old->answer()['body'], '<data><![CDATA[]]></data>') !== false, 'the older one is over');
    until('the new one waits', fn (): bool => $server->held() === 1);
    if (!has_gateways()) {
        throw new Skipped('this server has no /v1/release');
    }
    $web->post('/comet/exemples/v1/read.php?comet_release=abc', '');
    $new->answer();
    until('nobody waits', fn (): bool => $server->held() === 0);
});

test('a refresh that falls between other writes never leaves the older value', function () use ($server): void {
    require_once ROOT . '/clients/php/drop-in/lib/Comet/Loader/ClassLoader.php';
    Comet\Loader\ClassLoader::own();
    putenv("COMETSERVER_DATA_DIR=$server->data");
    // Four refresh, one writes: whatever the order, what was written last is there at the end.
    for ($round = 0; $round < 5; $round++) {
        for ($n = 0; $n < 4; $n++) {
            beside(static function () use ($round): void {
                $hub = new Comet\Internal\Hub();
                for ($i = 0; $i < 20; $i++) {
                    $hub->repeat("raced-$round");
                }
            });
        }
        $hub = new Comet\Internal\Hub();
        for ($i = 0; $i < 20; $i++) {
            $hub->write("raced-$round", "text $i", 'web');
        }
        join_all();
        same('text 19', Comet\Internal\Value::text($hub->retained("raced-$round")));
    }
    // What was published otherwise stays what it is.
    http("unix://$server->socket", 'POST', '/v1/publish', ['Content-Type' => 'application/json'], '{"channel":"json","data":{"a":"é/"},"retain":true}');
    $hub->repeat('json');
    $publications = json_decode(http("unix://$server->socket", 'GET', '/v1/history?channel=json')['body'], true)['publications'];
    same([['a' => 'é/'], ['a' => 'é/']], array_column($publications, 'data'));
});

test("PHP's own web server serves it all the same", function () use ($server): void {
    $web = new CliServer(site($server));
    is_dir("$web->root/comet/js") || mkdir("$web->root/comet/js");
    file_put_contents($web->root . '/comet/js/seed-helper.js', '// the script');
    same('// the script', $web->get('/comet/js/seed-helper.js')['body']);
    foreach (['v1', 'v2'] as $version) {
        yes(preg_match('~data-comet-cursor="([\w-]+)"~', $web->get("/comet/exemples/$version/index.php")['body'], $match), 'a cursor');
        same('[]', $web->post("/comet/exemples/$version/write.php", 'comet-text=built+in')['body']);
        $answer = $web->get("/comet/exemples/$version/read.php?comet_cursor=$match[1]");
        same('value: built in', element(parsed($answer['body'])->documentElement, 'data'));
        same('text/xml', explode(';', $answer['headers']['content-type'])[0]);
    }
});

test('the classes for the command line do as they did', function () use ($server): void {
    $code = '$s = NAME::create(); var_dump($s === NAME::create(), $s->isRunning(), $s->getServerPid() === trim(file_get_contents(getenv("COMETSERVER_DATA_DIR") . "/comet.pid")));
        var_dump($s->write("cli key", "a b"), $s->read("cli key"), $s->read("none"), strpos($s->dump(), "cli key") !== false); $s->setServerName("x"); echo $s->getServerName(), $s->getSocketPort(); $s->printMessage("m");
        foreach (array("clone" => function () use ($s) { clone $s; }, "serialize" => function () use ($s) { serialize($s); }) as $f) { try { $f(); } catch (LogicException $e) { echo "!"; } }
        var_dump(TOOLS::isAssoc(array()), TOOLS::isAssoc(array(1)), TOOLS::arrayDeepMerge(array("a" => array("b" => 1)), array("a" => array("c" => 2)), array("d" => 3)) === array("a" => array("b" => 1, "c" => 2), "d" => 3));
        echo COLOR::format("t", "INFO");';
    foreach (['v1' => ['CometServer', 'CometTools', 'CometCliColor'], 'v2' => ['Comet\Internal\Server', 'Comet\Util\Tools', 'Comet\Cli\Color']] as $version => [$name, $tools, $color]) {
        $out = script(['v1' => 'lib/CometAutoloader.class.php', 'v2' => 'config/bootstrap.php'][$version], strtr($code, ['NAME' => $name, 'TOOLS' => $tools, 'COLOR' => $color]), $server);
        same("bool(true)\nbool(true)\nbool(true)\nNULL\nstring(5) \"a b \0\"\nstring(2) \" \0\"\nbool(true)\nx0\nm!!bool(true)\nbool(false)\nbool(true)\n\033[32;1mt\033[0m", $out);
    }
});

test('half a character in JSON that an older server took does not stop the classes', function (): void {
    $server = Server::withOldLog();
    $code = '$hub = Comet\Internal\Hub::shared(); $texts = array(); $cursor = "earliest";
        do { $answer = $hub->poll("odd", $cursor, 0); $cursor = $answer["cursor"];
            foreach ($answer["publications"] as $p) { $texts[$p["offset"]] = Comet\Internal\Value::text($p); } } while (count($answer["publications"]) > 0);
        $texts["value"] = Comet\Internal\Value::text($hub->retained("odd/value")); echo base64_encode(serialize($texts));';
    $texts = unserialize(base64_decode(script('config/bootstrap.php', $code, $server)));
    $half = "\u{fffd}";
    same([1 => '"before"', 2 => "\"$half\"", 3 => "[\"$half$half\"]", 4 => "{\"a$half\":1}", 5 => $half, 6 => $half,
        7 => '{"\u0000a":1}', 8 => '"between"', 9 => "{\"data\":\"\\\"]}\\\\\",\"cursor\":\"$half\"}", 10 => '"after"', 'value' => "\"$half\""], $texts);
});

test('both entrances leave what they always left, also together', function () use ($server): void {
    $out = script('config/bootstrap.php', 'require ROOT_COMET . "/lib/CometAutoloader.class.php"; var_dump(is_dir(ROOT_COMET), is_dir(APP_LOCATION), defined("COMET_LOCATION"), is_object($GLOBALS["COMET_CLASS_LOADER"]), $bootstrap instanceof Comet\Boot\Bootstrap, Comet\Boot\Bootstrap::$instance === $bootstrap, class_exists("CometWebInterface"), class_exists("CometNoSuch"), ini_get("display_errors"));', $server);
    same(str_repeat("bool(true)\n", 7) . "bool(false)\nstring(1) \"1\"\n", $out);
    $out = script('lib/CometAutoloader.class.php', 'class Bootstrap {} require "' . ROOT . '/clients/php/drop-in/config/bootstrap.php"; echo get_class(Comet\Web\CInterface::create()), get_class(CometWebInterface::create());', $server);
    same('Comet\Web\CInterfaceCometWebInterface', $out);
});

/** Does this server know budgets of gateways? */
function has_gateways(): bool
{
    static $has = null;
    return $has = $has ?? strpos(comet('config', 'default'), 'drop_in.max') !== false;
}

test('who gets no place is answered at once, with the time to come back', function (): void {
    if (!has_gateways()) {
        throw new Skipped('this server has no held.drop_in.max');
    }
    $server = new Server(['--set', 'held.drop_in.max=1']);
    $web = new Web(site($server));
    $first = $web->begin('/comet/exemples/v1/read.php?comet_cursor=');
    until('one waits', fn (): bool => $server->held() === 1);
    $second = $web->get('/comet/exemples/v2/read.php?comet_cursor=');
    yes((int) ($second['headers']['x-comet-retry-ms'] ?? 0) > 0 && (int) ($second['headers']['retry-after'] ?? 0) > 0, 'when: ' . shown($second));
    yes(strpos($second['body'], '<data><![CDATA[]]></data>') !== false, 'with nothing');
    yes(!$first->ended(), 'the first waits on');
    // Nothing is lost: what comes meanwhile is there the next time, place or not.
    $cursor = element(parsed($second['body'])->documentElement, 'cursor');
    $server->cli('write', LIST_KEY, 'meanwhile');
    yes(strpos($web->get('/comet/exemples/v2/read.php?comet_cursor=' . $cursor)['body'], 'value: meanwhile') !== false, 'it is there');
    $server->stop();
});

foreach (['v1', 'v2'] as $version) {
    test("$version: with 5 workers of FPM and 30 waiting visitors an ordinary page answers, and all get the message", function () use ($version): void {
        if (!has_gateways()) {
            throw new Skipped('this server has no held.drop_in.max');
        }
        $server = new Server();
        $fpm = new Web(site($server), [], 5);
        $visitors = array_fill(0, 30, null);
        $cursors = array_fill(0, 30, '');
        $due = array_fill(0, 30, 0.0);
        $got = [];
        $slowest = 0.0;
        $turn = static function () use (&$visitors, &$cursors, &$due, &$got, $fpm, $version): void {
            foreach ($visitors as $i => $visitor) {
                if ($visitor === null && microtime(true) >= $due[$i] && !isset($got[$i])) {
                    $visitors[$i] = $fpm->begin("/comet/exemples/$version/read.php?comet_cursor=$cursors[$i]");
                } elseif ($visitor !== null && $visitor->ended()) {
                    $answer = $visitor->answer();
                    $visitors[$i] = null;
                    $due[$i] = microtime(true) + ($answer['headers']['x-comet-retry-ms'] ?? 50) / 1000;
                    $document = parsed($answer['body'])->documentElement;
                    $cursors[$i] = element($document, 'cursor');
                    if (element($document, 'data') !== '') {
                        $got[$i] = element($document, 'data');
                    }
                }
            }
        };
        // All have asked once, and some wait.
        until('all have a cursor or wait', function () use ($turn, &$visitors, &$cursors, $server): bool {
            $turn();
            $waiting = count(array_filter($visitors));
            return $waiting + count(array_filter($cursors)) >= 30 && $server->held() === 3 && $waiting === 3;
        });
        for ($n = 0; $n < 5; $n++) {
            $began = microtime(true);
            same('an ordinary page', $fpm->get('/page.php')['body']);
            $slowest = max($slowest, microtime(true) - $began);
            $turn();
        }
        yes($slowest < 2, "an ordinary page took $slowest s");
        $server->cli('write', LIST_KEY, 'for all');
        until('all have it', static function () use ($turn, &$got): bool {
            $turn();
            return count($got) === 30;
        });
        same(['value: for all'], array_values(array_unique($got)));
        $fpm->process->end();
        $server->stop();
    });
}
