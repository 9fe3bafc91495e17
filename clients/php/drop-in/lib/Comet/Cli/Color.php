<?php

namespace Comet\Cli;

/** Text in colours, for terminals. */
class Color
{
    private static $colours = array('black', 'red', 'green', 'yellow', 'blue', 'magenta', 'cyan', 'white');
    private static $effects = array('bold' => 1, 'underscore' => 4, 'blink' => 5, 'reverse' => 7, 'conceal' => 8);

    protected $styles = array(
        'ERROR' => array('bg' => 'red', 'fg' => 'white', 'bold' => true),
        'INFO' => array('fg' => 'green', 'bold' => true),
        'COMMENT' => array('fg' => 'yellow'),
        'QUESTION' => array('bg' => 'cyan', 'fg' => 'black'),
    );

    public function setStyle($name, $options = array())
    {
        $this->styles[$name] = $options;
    }

    /** Formats with this object's styles. */
    public function _format($text = '', $parameters = array())
    {
        if (!is_array($parameters)) {
            if (!isset($this->styles[$parameters])) {
                return $text;
            }
            $parameters = $this->styles[$parameters];
        }
        $codes = array();
        foreach (array('fg' => 30, 'bg' => 40) as $place => $base) {
            $colour = isset($parameters[$place]) ? array_search($parameters[$place], self::$colours, true) : false;
            if ($colour !== false) {
                $codes[] = $base + $colour;
            }
        }
        foreach (self::$effects as $effect => $code) {
            if (!empty($parameters[$effect])) {
                $codes[] = $code;
            }
        }
        return "\033[" . implode(';', $codes) . 'm' . $text . "\033[0m";
    }

    /** Formats by the name of a style, or by `fg`, `bg` and effects. */
    public static function format($text = '', $parameters = array())
    {
        $color = new self();
        return $color->_format($text, $parameters);
    }
}
