<?php
/**
 * Plugin Name: CometServer
 * Description: Shows what you publish in your visitors' open pages at once: a shortcode, a hook, no WordPress for a poll.
 * Version: 0.1.0
 * Requires PHP: 7.2
 * License: MIT OR Apache-2.0
 *
 * One file. Browsers talk to the push address (the server's own, or bridge.php), never to WordPress; only a token that is about to
 * end is fetched here anew. Settings are constants in wp-config.php:
 *
 *   COMET_URL                where browsers go: '/push', 'https://push.example.org', '/comet/bridge.php?call='
 *   COMET_DATA_DIR           the server's data folder, or COMET_SOCKET its socket (default: as for every client)
 *   COMET_TOKEN_SECRET       the secret of tokens, or COMET_TOKEN_SECRET_FILE a file with it; without: public channels only
 *   COMET_TOKEN_PATTERNS     a list: the channels and patterns that shortcodes may have tokens for (none); see listed()
 *   COMET_TOKEN_LIFETIME     how long a token holds, in seconds (3600)
 *   COMET_PAGE_LIFETIME      for how long after it was made an open page gets tokens, in seconds (86400)
 *   COMET_JS                 the address of the browser client (comet.js beside this file)
 */

if (!defined('ABSPATH')) {
    exit;
}

final class CometServerPlugin
{
    /** How long connecting to the server may take, and a whole request, in seconds: a page must not wait for it. */
    private const CONNECT_TIME = 0.3;
    private const ANSWER_TIME = 2.0;

    /** How long a token holds if nothing else is said, in seconds. */
    private const TOKEN_LIFETIME = 3600;

    /** For how long a page gets tokens if nothing else is said, in seconds: what it was made for may not be so any more. */
    private const PAGE_LIFETIME = 86400;

    /** `*` and `**` of a pattern, as bytes that are in no UTF-8 text. */
    private const SEGMENT = "\xFE";
    private const ANY = "\xFF";

    /** The most bytes of an answer that are read. */
    private const MAX_ANSWER = 1 << 20;

    /** The names of elements and what they do with a message. */
    private const MODES = ['list', 'latest', 'event'];

    /** What the elements of this page need; the script is printed once. */
    private static $used = false;

    /** After a fault the server is not asked again in this request: a page with ten shortcodes waits once. */
    private static $down = false;

    /** The cursor of this page, asked for once. */
    private static $cursor;

    public static function init(): void
    {
        add_shortcode('comet', [self::class, 'shortcode']);
        add_action('comet_publish', [self::class, 'publish'], 10, 3);
        add_action('rest_api_init', [self::class, 'routes']);
        add_action('wp_footer', [self::class, 'script']);
        add_action('template_redirect', [self::class, 'forbidCaches']);
    }

    /**
     * A page that will have a cursor is of one moment: browsers and proxies are not to keep it. What the site's owner lets
     * keep pages inside WordPress is not asked: there a page catches up from when it was made.
     *
     * Called before anything of a page is sent, so it looks for the shortcode in what the page is about to show.
     */
    public static function forbidCaches(): void
    {
        global $wp_query;
        foreach (isset($wp_query->posts) ? (array) $wp_query->posts : [] as $post) {
            if (isset($post->post_content) && has_shortcode((string) $post->post_content, 'comet')) {
                self::noStore();
                return;
            }
        }
    }

    private static function noStore(): void
    {
        if (!headers_sent()) {
            header('Cache-Control: no-store');
        }
    }

    /**
     * `do_action('comet_publish', $channel, $data, $options)`: publishes, and never breaks or delays what called it.
     *
     * @param string|string[] $channels
     * @param mixed           $data     anything that JSON can say
     * @param array           $options  `event`, `id`, `retain`, `tags`, `kind`, `exclude_session`, `idempotency_key`
     *
     * @return bool whether it was published
     */
    public static function publish($channels, $data, $options = []): bool
    {
        $options = is_array($options) ? $options : [];
        $message = (is_array($channels) ? ['channels' => array_values($channels)] : ['channel' => (string) $channels])
            + ['data' => $data]
            + array_intersect_key($options, array_flip(['event', 'id', 'retain', 'tags', 'kind', 'exclude_session', 'idempotency_key']))
            // With a key of its own it may be sent again, however the first time ended.
            + ['idempotency_key' => bin2hex(random_bytes(16))];
        $body = json_encode($message, JSON_UNESCAPED_SLASHES | JSON_UNESCAPED_UNICODE);
        $answer = $body === false ? null : self::ask('POST', '/v1/publish', $body);
        return isset($answer['channels']);
    }

    /**
     * `[comet channel="news" pattern="" token="" mode="list|latest|event" max="20" class=""]…[/comet]`; what it encloses is
     * shown until the first message. Messages are shown as text; with `mode="event"` the element only gets an event `comet`.
     *
     * Many may write a post, and read in its source what it was given: there is a token only for what the site's owner lists.
     */
    public static function shortcode($attributes, $content = ''): string
    {
        $known = ['channel' => '', 'pattern' => '', 'token' => '', 'mode' => 'list', 'max' => '20', 'class' => ''];
        $given = shortcode_atts($known, (array) $attributes, 'comet');
        $channels = self::words($given['channel']);
        $patterns = self::words($given['pattern']);
        if ($channels === [] && $patterns === []) {
            return self::hint('Name a channel or a pattern.');
        }
        $needsToken = self::secret() !== null && $given['token'] !== 'no';
        $user = wp_get_current_user();
        $refused = $needsToken ? self::refused($channels, $patterns, $user) : [];
        if ($refused !== []) {
            return self::hint('Nothing is shown here, since pages may have no token for: ' . implode(', ', $refused) . '. Whoever runs this site'
                . ' lists what they may have one for in COMET_TOKEN_PATTERNS (wp-config.php), or with the filter comet_token_patterns.'
                . ' Public channels need none: write token="no".');
        }
        self::$used = true;
        $data = [
            'comet-channels' => json_encode($channels),
            'comet-patterns' => json_encode($patterns),
            'comet-mode' => in_array($given['mode'], self::MODES, true) ? $given['mode'] : 'list',
            'comet-max' => (string) max(1, (int) $given['max']),
            'comet-cursor' => self::cursor(),
        ];
        if ($needsToken) {
            $until = time() + (defined('COMET_PAGE_LIFETIME') ? (int) COMET_PAGE_LIFETIME : self::PAGE_LIFETIME);
            $grant = ['channels' => $channels, 'patterns' => $patterns, 'user' => $user->ID, 'until' => $until];
            $data['comet-token'] = self::token($grant, $user);
            // Whoever shows this again may have a token for the same again, until then.
            $grant = base64_encode((string) json_encode($grant));
            $data['comet-renew'] = add_query_arg(['grant' => rawurlencode($grant), 'sign' => self::sign($grant)], rest_url('comet/v1/token'));
        }
        $html = '<div class="' . esc_attr(trim('comet ' . $given['class'])) . '" aria-live="polite"';
        foreach ($data as $name => $value) {
            $html .= ' data-' . $name . '="' . esc_attr($value) . '"';
        }
        return $html . '>' . do_shortcode((string) $content) . '</div>';
    }

    public static function routes(): void
    {
        register_rest_route('comet/v1', '/token', ['methods' => 'GET', 'callback' => [self::class, 'renew'], 'permission_callback' => '__return_true']);
    }

    /** A new token for what a page of ours has listened to before, and for nobody but who that page was made for. */
    public static function renew($request)
    {
        $grant = $request->get_param('grant');
        $sign = $request->get_param('sign');
        $isOurs = self::secret() !== null && is_string($grant) && is_string($sign) && hash_equals(self::sign($grant), $sign);
        $asked = $isOurs ? json_decode((string) base64_decode($grant, true), true) : null;
        if (!is_array($asked) || !isset($asked['channels'], $asked['patterns'], $asked['user'], $asked['until'])) {
            return new WP_Error('comet_grant', 'This page was not made here.', ['status' => 403]);
        }
        if ($asked['until'] <= time()) {
            return new WP_Error('comet_end', 'This page was made too long ago: load it again.', ['status' => 403]);
        }
        $user = new WP_User();
        if ($asked['user'] !== 0) {
            // Without a nonce, which a page that is open for a day has outlived, WordPress takes every request of this kind for
            // a stranger's. No other site knows the signed grant, so the cookie is enough here.
            if (wp_validate_auth_cookie('', 'logged_in') !== $asked['user']) {
                return new WP_Error('comet_user', 'This page was made for somebody who is not signed in any more.', ['status' => 403]);
            }
            $user = get_userdata($asked['user']);
        }
        if (self::refused($asked['channels'], $asked['patterns'], $user) !== []) {
            return new WP_Error('comet_list', 'There are no tokens any more for what this page listens to.', ['status' => 403]);
        }
        $token = self::token($asked, $user);
        // WordPress forbids to keep an answer only where it knows the user.
        return new WP_REST_Response(['token' => $token], 200, ['Cache-Control' => 'no-store']);
    }

    /** The script that brings the elements of this page to life. */
    public static function script(): void
    {
        if (!self::$used) {
            return;
        }
        $client = defined('COMET_JS') ? COMET_JS : plugins_url('comet.js', __FILE__);
        $url = defined('COMET_URL') ? COMET_URL : '/push';
        $flags = JSON_HEX_TAG | JSON_HEX_AMP | JSON_UNESCAPED_SLASHES;
        echo '<script type="module">import {Comet} from ', json_encode($client, $flags), ';const url=', json_encode($url, $flags), ';', <<<'JS'

for (const element of document.querySelectorAll(".comet[data-comet-mode]")) {
  const { cometChannels, cometPatterns, cometMode, cometMax, cometCursor, cometToken, cometRenew } = element.dataset;
  let first = cometToken;
  let isOver = false;
  const tell = (detail) => element.dispatchEvent(new CustomEvent("comet", { detail, bubbles: true }));
  const token = cometToken && (async () => {
    const now = first;
    first = undefined;
    if (now) return now;
    const answer = await fetch(cometRenew, { cache: "no-store" });
    // A fault passes. After a refusal there is no token: what is not public ends, and only another page has one again.
    if (answer.status >= 500) throw new Error(`no new token: ${answer.status}`);
    const { token } = await answer.json();
    if (!token && !isOver) tell({ type: "reload" });
    isOver = !token;
    return token;
  });
  const comet = new Comet(url, { token, cursor: cometCursor });
  let empty = true;
  const show = (message) => {
    tell(message);
    if (cometMode === "event") return;
    if (empty || cometMode === "latest") element.replaceChildren();
    empty = false;
    const { data } = message;
    const line = document.createElement("p");
    line.textContent = typeof data === "string" ? data : data?.text ?? JSON.stringify(data);
    element.prepend(line);
    while (element.childElementCount > cometMax) element.lastElementChild.remove();
  };
  for (const channel of JSON.parse(cometChannels)) comet.subscribe(channel, show);
  for (const pattern of JSON.parse(cometPatterns)) comet.subscribe({ pattern }, show);
}
</script>

JS;
    }

    /** Where the page starts: nothing that is published while it is made gets lost. */
    private static function cursor(): string
    {
        if (self::$cursor === null) {
            $answer = self::ask('GET', '/v1/now');
            self::$cursor = (string) ($answer['cursor'] ?? '');
            // Of a shortcode in a widget or a template nobody knew before.
            self::noStore();
        }
        return self::$cursor;
    }

    /** A token for what a page was made for, and not for longer. */
    private static function token(array $grant, WP_User $user): string
    {
        $lifetime = defined('COMET_TOKEN_LIFETIME') ? (int) COMET_TOKEN_LIFETIME : self::TOKEN_LIFETIME;
        $claims = ['exp' => min(time() + $lifetime, $grant['until'])];
        if ($user->ID !== 0) {
            $claims['sub'] = $user->user_login;
        }
        $claims['comet'] = ['channels' => $grant['channels'], 'patterns' => $grant['patterns'], 'actions' => ['subscribe', 'history']];
        $part = static function (string $bytes): string {
            return rtrim(strtr(base64_encode($bytes), '+/', '-_'), '=');
        };
        $text = $part((string) json_encode(['alg' => 'HS256', 'typ' => 'JWT'])) . '.' . $part((string) json_encode($claims));
        return $text . '.' . $part(hash_hmac('sha256', $text, (string) self::secret(), true));
    }

    /** Another use of the secret than signing tokens, so another key made of it. */
    private static function sign(string $grant): string
    {
        return hash_hmac('sha256', $grant, hash_hmac('sha256', 'cometserver wordpress grant', (string) self::secret(), true));
    }

    /** Which of these a page of this user may have no token for. */
    private static function refused(array $channels, array $patterns, WP_User $user): array
    {
        $rules = [];
        foreach (self::listed($user) as $pattern) {
            $rules[] = '~\A' . strtr(preg_quote($pattern, '~'), [self::SEGMENT => '[^/\xFF]*', self::ANY => '.*']) . '\z~s';
        }
        // A rule that matches the wildcards of a pattern matches whatever they stand for.
        $isRefused = static function (?string $parsed) use ($rules): bool {
            foreach ($parsed === null ? [] : $rules as $rule) {
                if (preg_match($rule, $parsed) === 1) {
                    return false;
                }
            }
            return true;
        };
        $isRefusedPattern = static function (string $pattern) use ($isRefused): bool {
            return $isRefused(self::parsed($pattern));
        };
        return array_merge(array_filter($channels, $isRefused), array_filter($patterns, $isRefusedPattern));
    }

    /**
     * What pages may have tokens for: `COMET_TOKEN_PATTERNS`, and what the filter `comet_token_patterns` makes of it for this user
     * (of ID 0: a stranger). It is asked when a page is made and for each token after that, when WordPress itself knows no user.
     */
    private static function listed(WP_User $user): array
    {
        $patterns = apply_filters('comet_token_patterns', defined('COMET_TOKEN_PATTERNS') ? (array) COMET_TOKEN_PATTERNS : [], $user);
        $texts = array_filter((array) $patterns, 'is_string');
        return array_filter(array_map([self::class, 'parsed'], $texts), 'is_string');
    }

    /** A pattern as the server reads it: `*` and `**` as bytes of their own, what follows a `\` as it is. `null`: it is none. */
    private static function parsed(string $pattern): ?string
    {
        if ((strlen($pattern) - strlen(rtrim($pattern, '\\'))) % 2 !== 0) {
            return null;
        }
        return preg_replace_callback('~\\\\(.)|\*+~su', static function (array $found): string {
            return $found[1] ?? ($found[0] === '*' ? self::SEGMENT : self::ANY);
        }, $pattern);
    }

    /** Instead of an element: nothing, except for whoever may do something about it. */
    private static function hint(string $text): string
    {
        $post = get_the_ID();
        $mayEdit = $post ? current_user_can('edit_post', $post) : current_user_can('edit_posts');
        return $mayEdit ? '<p class="comet-hint"><strong>CometServer:</strong> ' . esc_html($text) . '</p>' : '';
    }

    private static function secret(): ?string
    {
        static $secret = false;
        if ($secret === false) {
            $secret = defined('COMET_TOKEN_SECRET') ? (string) COMET_TOKEN_SECRET : null;
            if ($secret === null && defined('COMET_TOKEN_SECRET_FILE')) {
                $text = @file_get_contents(COMET_TOKEN_SECRET_FILE);
                $secret = $text === false ? null : preg_replace('~\r?\n\z~', '', $text);
            }
            // The server takes none that is shorter.
            $secret = $secret !== null && strlen($secret) >= 32 ? $secret : null;
        }
        return $secret;
    }

    /** Channels, separated by commas and blanks as people write them; editors save `&` and quotes as HTML has them. */
    private static function words(string $list): array
    {
        $list = html_entity_decode($list, ENT_QUOTES | ENT_HTML5, 'UTF-8');
        return array_values(array_filter(array_map('trim', explode(',', $list)), 'strlen'));
    }

    /** One request to the server, once more if the connection ends; `null` for whatever is not a good answer. */
    private static function ask(string $method, string $path, string $body = ''): ?array
    {
        $until = microtime(true) + self::ANSWER_TIME;
        $answer = '';
        for ($attempt = 0; $answer === '' && $attempt < 2 && !self::$down; $attempt++) {
            $answer = self::exchange("$method $path HTTP/1.0\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                . 'Content-Length: ' . strlen($body) . "\r\n\r\n$body", $until);
        }
        $end = strpos($answer, "\r\n\r\n");
        $value = $end !== false && preg_match('~^HTTP/1\.[01] 2~', $answer) ? json_decode(substr($answer, $end + 4), true) : null;
        if (!is_array($value) && defined('WP_DEBUG') && WP_DEBUG && function_exists('error_log')) {
            error_log('CometServer: ' . $path . ': ' . ($answer === '' ? 'no answer at ' . self::socket() : substr($answer, 0, 300)));
        }
        return is_array($value) ? $value : null;
    }

    private static function exchange(string $request, float $until): string
    {
        $stream = self::open('unix://' . self::socket());
        if (!$stream) {
            self::$down = true;
            return '';
        }
        stream_set_blocking($stream, false);
        $answer = '';
        while (strlen($answer) < self::MAX_ANSWER) {
            if ($request !== '') {
                $written = @fwrite($stream, $request);
                $request = $written === false ? '' : (string) substr($request, $written);
            }
            $piece = @fread($stream, 65536);
            if ($piece !== false && $piece !== '') {
                $answer .= $piece;
                continue;
            }
            $left = $until - microtime(true);
            if (feof($stream) || $left <= 0) {
                self::$down = $left <= 0;
                break;
            }
            $read = [$stream];
            $write = $request === '' ? null : [$stream];
            $none = null;
            @stream_select($read, $write, $none, (int) $left, (int) (fmod($left, 1) * 1e6));
        }
        fclose($stream);
        return $answer;
    }

    private static function socket(): string
    {
        foreach (['COMET_SOCKET', 'COMETSERVER_SOCKET'] as $name) {
            $value = defined($name) ? (string) constant($name) : self::variable($name);
            if ($value !== '') {
                return $value;
            }
        }
        foreach (['COMET_DATA_DIR', 'COMETSERVER_DATA_DIR'] as $name) {
            $value = defined($name) ? (string) constant($name) : self::variable($name);
            if ($value !== '') {
                return rtrim($value, '/') . '/comet.sock';
            }
        }
        $user = function_exists('posix_getpwuid') && function_exists('posix_geteuid') ? posix_getpwuid(posix_geteuid()) : false;
        $machine = '/var/lib/cometserver/comet.sock';
        $own = !$user || $user['uid'] === 0 ? $machine : $user['dir'] . '/.local/state/cometserver/comet.sock';
        // PHP-FPM has a user of its own, whose home says nothing of the machine's server.
        return !@file_exists($own) && @file_exists($machine) ? $machine : $own;
    }

    private static function variable(string $name): string
    {
        return function_exists('getenv') ? (string) getenv($name) : '';
    }

    /**
     * A connection, or `false`. Hosts that forbid one of the two functions mostly leave the other.
     *
     * @return resource|false
     */
    private static function open(string $target)
    {
        if (function_exists('stream_socket_client')) {
            return @stream_socket_client($target, $errno, $error, self::CONNECT_TIME);
        }
        return function_exists('fsockopen') ? @fsockopen($target, -1, $errno, $error, self::CONNECT_TIME) : false;
    }
}

/** For themes: as the action of this name, and tells whether it worked. */
function comet_publish($channels, $data, array $options = []): bool
{
    return CometServerPlugin::publish($channels, $data, $options);
}

CometServerPlugin::init();
