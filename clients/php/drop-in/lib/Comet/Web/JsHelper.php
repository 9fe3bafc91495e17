<?php

namespace Comet\Web;

use Comet\Internal\Hub;

/** The script in a page that waits for messages and hands each to a function. */
class JsHelper
{
    /** The script's name, in the folder `js` here. */
    const SCRIPT = 'seed-helper.js';

    public static function create()
    {
        return new static();
    }

    /**
     * Prints the script element, best within the head.
     *
     * @param string $url      the page that echoes `readAsXml()`
     * @param string $function the name of the JavaScript function that gets each text
     */
    public function renderJsTag($url, $function)
    {
        $attributes = ' data-comet-url="' . self::escaped($url) . '" data-comet-function="' . self::escaped($function) . '"';
        $cursor = self::cursor();
        if ($cursor !== '') {
            $attributes .= ' data-comet-cursor="' . self::escaped($cursor) . '"';
        }
        $source = self::source();
        if ($source !== null) {
            echo '<script type="text/javascript" src="', self::escaped($source), '"', $attributes, '></script>';
        } else {
            echo '<script type="text/javascript"', $attributes, ">\n", self::script(), "\n</script>";
        }
    }

    /** Where the page starts: what is written from now on is shown, however long its browser takes to ask. */
    private static function cursor()
    {
        try {
            $cursor = Hub::shared()->now();
        } catch (\RuntimeException $fault) {
            return '';
        }
        // From a cache the page would begin long ago. Either function may be among a host's disable_functions.
        if (function_exists('headers_sent') && function_exists('header') && !headers_sent()) {
            header('Cache-Control: no-store');
        }
        return $cursor;
    }

    /** The script's address, if the web server can serve it: as configured, else by where this folder is. */
    private static function source()
    {
        $configured = Hub::shared()->setting('helper_url');
        if ($configured !== null) {
            return (string) $configured;
        }
        $documents = isset($_SERVER['DOCUMENT_ROOT']) ? (string) $_SERVER['DOCUMENT_ROOT'] : '';
        $documents = $documents === '' ? false : @realpath($documents);
        $file = self::file();
        if ($documents === false || $file === null) {
            return null;
        }
        $documents = rtrim($documents, '/') . '/';
        if (strncmp($file, $documents, strlen($documents)) !== 0) {
            return null;
        }
        return '/' . str_replace('%2F', '/', rawurlencode(substr($file, strlen($documents))));
    }

    /** The script's file: in this folder, or beside it as in the source tree. */
    private static function file()
    {
        foreach (array(Hub::root() . '/js/', dirname(dirname(Hub::root())) . '/js/') as $folder) {
            $file = @realpath($folder . self::SCRIPT);
            if ($file !== false) {
                return $file;
            }
        }
        return null;
    }

    private static function script()
    {
        $file = self::file();
        $script = $file === null ? false : @file_get_contents($file);
        if ($script === false) {
            return 'window.console && console.error("CometServer: ' . self::SCRIPT . ' is missing in the folder js");';
        }
        // Nothing in it may end the element.
        return str_replace('</', '<\/', $script);
    }

    private static function escaped($text)
    {
        return htmlspecialchars((string) $text, ENT_QUOTES, 'UTF-8');
    }
}
