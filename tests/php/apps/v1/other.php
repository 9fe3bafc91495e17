<?php
session_start();
echo "an ordinary page";
