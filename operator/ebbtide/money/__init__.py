"""Pure arithmetic of money and time: tariffs, calendar periods, lifetimes. Reads no clock and no outside."""
