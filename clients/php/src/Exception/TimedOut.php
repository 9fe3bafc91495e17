<?php

declare(strict_types=1);

namespace CometServer\Exception;

/** No answer in time: the request may or may not have been carried out. */
final class TimedOut extends CometException
{
}
