<?php

namespace Comet\Cli;

/**
 * Coloured text: a style is a list of words, and each word stands for a number of ECMA-48's "select graphic rendition".
 *
 * A style has a colour of its letters (`fg`), one behind them (`bg`), and any of the effects, which are `true`. A colour that does
 * not exist is passed over.
 */
class Color
{
    /** What turns everything off again. */
    const PLAIN = "\033[0m";

    /** The words that take a colour, in the order in which they are written, and the number of its black. */
    private static $grounds = array('fg' => 30, 'bg' => 40);

    /** How far each colour is from black. */
    private static $distance = array('black' => 0, 'red' => 1, 'green' => 2, 'yellow' => 3, 'blue' => 4, 'magenta' => 5, 'cyan' => 6, 'white' => 7);

    /** The words that stand for themselves. */
    private static $effects = array('bold' => 1, 'underscore' => 4, 'blink' => 5, 'reverse' => 7, 'conceal' => 8);

    /** The styles that have a name. */
    protected $styles = array(
        'ERROR' => array('bg' => 'red', 'fg' => 'white', 'bold' => true),
        'INFO' => array('fg' => 'green', 'bold' => true),
        'COMMENT' => array('fg' => 'yellow'),
        'QUESTION' => array('bg' => 'cyan', 'fg' => 'black'),
    );

    /** The text in a style: its name, or its words. With a name that nobody has given it stays as it is. */
    public static function format($text = '', $parameters = array())
    {
        $plain = new self();
        return $plain->_format($text, $parameters);
    }

    /** The text in a style where somebody sees it: a pipe and a file get it plain. */
    public static function onTerminal($text, $style)
    {
        $sees = function_exists('posix_isatty') && defined('STDOUT') && posix_isatty(STDOUT);
        return $sees ? self::format($text, $style) : $text;
    }

    /** Names a style, or changes it. */
    public function setStyle($name, $options = array())
    {
        $this->styles[$name] = $options;
    }

    /** As `format()`, with the styles of this object. */
    public function _format($text = '', $parameters = array())
    {
        $style = $parameters;
        if (!is_array($style)) {
            $style = isset($this->styles[$style]) ? $this->styles[$style] : null;
        }
        return $style === null ? $text : "\033[" . implode(';', self::numbers($style)) . 'm' . $text . self::PLAIN;
    }

    private static function numbers(array $style)
    {
        $numbers = array();
        foreach (self::$grounds as $word => $black) {
            $colour = isset($style[$word]) ? $style[$word] : null;
            if (is_string($colour) && isset(self::$distance[$colour])) {
                $numbers[] = $black + self::$distance[$colour];
            }
        }
        foreach (self::$effects as $word => $number) {
            if (!empty($style[$word])) {
                $numbers[] = $number;
            }
        }
        return $numbers;
    }
}
