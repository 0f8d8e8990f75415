"""The ground floor: the engine, atomic files, ids, metrics, errors, config, logging and progress; knows nothing of video."""
