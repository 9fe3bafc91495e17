<?php
/** The page that writes a message, or shows the last one again. No script needed. */

require_once __DIR__ . '/../../clients/php/drop-in/config/bootstrap.php';

/** The most that is taken, in bytes. */
const LONGEST = 10000;

/** What stands there at the beginning. */
const SAMPLE = 'Dinner is ready: <b>soup</b> & bread, 100 % home-made';

/** What goes into the page: never as HTML. */
function escaped(string $text): string
{
    return htmlspecialchars($text, ENT_QUOTES | ENT_SUBSTITUTE, 'UTF-8');
}

/** Does what the form asks; gives what to say about it, and whether it went well. */
function handle(array $form): array
{
    $comet = Comet\Web\CInterface::create();
    $comet->setKey(require __DIR__ . '/key.php');
    if (($form['frm-comet-refresh'] ?? '') === 'true') {
        $failure = $comet->refresh();
        return $failure === '' ? ['The last message is shown again.', true] : ["Not shown: $failure", false];
    }
    $text = $form['comet-text'] ?? '';
    if (!is_string($text) || trim($text) === '' || strlen($text) > LONGEST) {
        return ['A message has 1 to ' . LONGEST . ' bytes, and not only blanks.', false];
    }
    $failure = $comet->write($text);
    return $failure === '' ? ['Sent.', true] : ["Not sent: $failure", false];
}

session_start(['cookie_httponly' => true, 'cookie_samesite' => 'Strict']);
$_SESSION['token'] = $_SESSION['token'] ?? bin2hex(random_bytes(16));

if ($_SERVER['REQUEST_METHOD'] === 'POST') {
    // Only a form that this page has made knows the token: no other site can write in a visitor's name.
    $token = $_POST['token'] ?? '';
    if (!is_string($token) || !hash_equals($_SESSION['token'], $token)) {
        http_response_code(403);
        header('Content-Type: text/plain; charset=utf-8');
        exit("This form is too old, or not of this site. Open write.php again.\n");
    }
    [$said, $isGood] = handle($_POST);
    // What was not sent is still to be sent.
    $text = $isGood ? '' : $_POST['comet-text'] ?? '';
    $_SESSION['said'] = [$said, $isGood, is_string($text) ? $text : ''];
    // So that reloading the page does not send it again.
    header('Location: write.php', true, 303);
    exit;
}

[$said, $isGood, $text] = $_SESSION['said'] ?? ['', true, SAMPLE];
unset($_SESSION['said']);
header("Content-Security-Policy: default-src 'none'; style-src 'self'; img-src data:; form-action 'self'; frame-ancestors 'none'");
header('Cache-Control: no-store');
?>
<!doctype html>
<html lang="en">
  <head>
    <meta charset="utf-8">
    <meta name="viewport" content="width=device-width, initial-scale=1">
    <title>Write a message</title>
    <link rel="icon" href="data:,">
    <link rel="stylesheet" href="../shared/look.css">
  </head>
  <body>
    <main>
      <h1>Write a message</h1>
      <p>Every open <a href="index.php">notifier</a> shows it at once.</p>
      <div class="card">
        <form method="post" action="write.php">
          <input type="hidden" name="token" value="<?= escaped($_SESSION['token']) ?>">
          <label for="comet-text">Message</label>
          <textarea id="comet-text" name="comet-text" required>
<?= escaped($text) ?></textarea>
          <p class="actions"><button id="send">Send</button></p>
        </form>
        <form method="post" action="write.php">
          <input type="hidden" name="token" value="<?= escaped($_SESSION['token']) ?>">
          <input type="hidden" name="frm-comet-refresh" value="true">
          <p class="actions"><button id="refresh" class="second">Show the last one again</button></p>
        </form>
        <p id="said" role="status" class="<?= $isGood ? 'good' : 'bad' ?>"><?= escaped($said) ?></p>
      </div>
    </main>
  </body>
</html>
