"""One candidate's verdict, and all that it rests on."""
