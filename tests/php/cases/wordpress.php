<?php
/** The plug-in, with a stand-in for the few functions of WordPress that it calls: WordPress itself is not here. */

declare(strict_types=1);

require __DIR__ . '/../lib.php';

const SECRET = 'a secret of at least thirty-two bytes, for tests';

$toml = folder() . '/comet.toml';
file_put_contents($toml, "[[tokens]]\nname = \"site\"\nsecret = \"" . SECRET . "\"\n");
chmod($toml, 0600);
$server = new Server(['--config', $toml]);

define('ABSPATH', '/');
define('COMET_DATA_DIR', $server->data);
define('COMET_TOKEN_SECRET', SECRET);
define('COMET_URL', '/comet/bridge.php?call=');

$hooks = [];
function add_shortcode(string $name, callable $do): void
{
    $GLOBALS['hooks']["[$name]"] = $do;
}
function add_action(string $name, callable $do, int $priority = 10, int $arguments = 1): void
{
    $GLOBALS['hooks'][$name] = $do;
}
function do_action(string $name, ...$arguments): void
{
    $GLOBALS['hooks'][$name](...$arguments);
}
function shortcode_atts(array $known, array $given): array
{
    return array_merge($known, array_intersect_key($given, $known));
}
function esc_attr(string $text): string
{
    return htmlspecialchars($text, ENT_QUOTES);
}
function do_shortcode(string $text): string
{
    return $text;
}
function current_user_can(string $what): bool
{
    return false;
}
function wp_get_current_user(): object
{
    return (object) ['ID' => 7, 'user_login' => 'anna'];
}
function rest_url(string $path): string
{
    return "https://site.example/wp-json/$path";
}
function add_query_arg(array $more, string $url): string
{
    $pairs = [];
    foreach ($more as $name => $value) {
        $pairs[] = "$name=$value";
    }
    return $url . '?' . implode('&', $pairs);
}
function plugins_url(string $file, string $beside): string
{
    return "https://site.example/wp-content/plugins/$file";
}
function register_rest_route(string $space, string $path, array $route): void
{
    $GLOBALS['hooks']["$space$path"] = $route['callback'];
}
final class WP_Error
{
    public string $code;
    public function __construct(string $code)
    {
        $this->code = $code;
    }
}
final class Asked
{
    private array $query;
    public function __construct(array $query)
    {
        $this->query = $query;
    }
    public function get_param(string $name)
    {
        return $this->query[$name] ?? null;
    }
}

require ROOT . '/clients/wordpress/cometserver.php';
do_action('rest_api_init');

function attributes(string $html): array
{
    $document = new DOMDocument();
    $document->loadHTML('<?xml encoding="utf-8"?>' . $html);
    $found = [];
    foreach ($document->getElementsByTagName('div')[0]->attributes as $attribute) {
        $found[$attribute->name] = $attribute->value;
    }
    return $found;
}

test('the action publishes, and a theme hears whether it did', function () use ($server): void {
    do_action('comet_publish', 'news', ['title' => 'é'], ['event' => 'post', 'retain' => true]);
    do_action('comet_publish', ['news', 'more'], 'x');
    same([['title' => 'é'], 'x'], $server->texts('news'));
    yes(comet_publish('news', 1), 'it did');
    yes(!comet_publish('', 1), 'it did not');
    yes(!comet_publish('news', "\xFF"), 'nor did this');
});

test('the shortcode gives an element with a cursor and a token that the server takes', function () use ($server): void {
    $html = $GLOBALS['hooks']['[comet]'](['channel' => 'news, a"b<c>', 'pattern' => 'user/anna/*', 'mode' => 'latest', 'class' => 'x"y'], '<p>Nothing yet</p>');
    $found = attributes($html);
    same('comet x"y', $found['class']);
    same(['news', 'a"b<c>'], json_decode($found['data-comet-channels'], true));
    same('latest', $found['data-comet-mode']);
    yes(strpos($html, '<p>Nothing yet</p></div>') !== false, 'what it encloses');
    comet_publish('news', 'afterwards');
    $answer = http("unix://$server->public", 'GET', '/v1/poll?channel=news&cursor=' . $found['data-comet-cursor'], ['Authorization' => 'Bearer ' . $found['data-comet-token']]);
    same(['afterwards'], array_column(json_decode($answer['body'], true)['publications'], 'data'));
    same(403, http("unix://$server->public", 'GET', '/v1/poll?wait_ms=0&channel=other', ['Authorization' => 'Bearer ' . $found['data-comet-token']])['status']);
    same('', $GLOBALS['hooks']['[comet]']([]));
});

test('a token is made anew for what the page had, and for nothing else', function () use ($server): void {
    $found = attributes($GLOBALS['hooks']['[comet]'](['channel' => 'news']));
    parse_str(parse_url($found['data-comet-renew'], PHP_URL_QUERY), $query);
    $renew = $GLOBALS['hooks']['comet/v1/token'];
    $token = $renew(new Asked($query))['token'];
    same(200, http("unix://$server->public", 'GET', '/v1/poll?wait_ms=0&channel=news', ['Authorization' => "Bearer $token"])['status']);
    $forged = ['grant' => base64_encode(json_encode(['channels' => ['secret'], 'patterns' => []]))] + $query;
    yes($renew(new Asked($forged)) instanceof WP_Error, 'not forged');
    yes($renew(new Asked([])) instanceof WP_Error, 'nor empty');
});

test('the script is printed where there is an element, and nothing can end it', function (): void {
    ob_start();
    do_action('wp_footer');
    $html = ob_get_clean();
    yes(strpos($html, '<script type="module">import {Comet} from "https://site.example/wp-content/plugins/comet.js";const url="/comet/bridge.php?call=";') === 0, $html);
    same(1, substr_count($html, '</script>'));
});

test('without the server a page is a page, at once', function () use ($server): void {
    $server->stop();
    $code = '<?php $root = ' . var_export(realpath(ROOT), true) . '; $data = ' . var_export(folder(), true) . '; define("ABSPATH", "/"); define("COMET_DATA_DIR", $data);
        foreach (["add_shortcode", "add_action"] as $f) eval("function $f(\$n, \$d) { \$GLOBALS[\"h\"][\$n] = \$d; }");
        function shortcode_atts($a, $b) { return array_merge($a, $b); } function esc_attr($t) { return htmlspecialchars($t); } function do_shortcode($t) { return $t; }
        require "$root/clients/wordpress/cometserver.php"; var_dump(comet_publish("a", 1)); echo $h["comet"](["channel" => "a"], "text");';
    $file = folder() . '/page.php';
    file_put_contents($file, $code);
    $out = shell_exec(escapeshellarg(PHP_BINARY) . ' -d error_reporting=32767 -d display_errors=1 ' . escapeshellarg($file) . ' 2>&1');
    yes(strpos($out, "bool(false)\n<div class=\"comet\"") === 0 && strpos($out, 'data-comet-cursor=""') !== false && strpos($out, '>text</div>') !== false, $out);
});
