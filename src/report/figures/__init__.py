"""How the figures are drawn: functions of results that return a matplotlib figure."""
