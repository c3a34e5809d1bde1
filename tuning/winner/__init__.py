"""The winner: chosen, exported, trained again."""
