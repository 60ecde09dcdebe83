"""Files that earlier versions wrote; whatever they hold must open for ever."""
