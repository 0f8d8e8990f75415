"""Features of others, into a feature store and out of it: HDF5, folders of .npy, and .npz files.

The layouts are those of published code. HDF5: a dataset per video, named by its id ([T, D] in TCA; [T, R, D] with nine
regions a frame in ViSiL, Distill-and-Select and S2VS; an id with slashes lies in groups). A folder of .npy: a file per
video, named by its id ([T, D]; TCA squeezes a single frame to [D]). An .npz of the Video Similarity Challenge:
``video_ids`` [N], ``features`` [N, D] and ``timestamps`` [N] or [N, 2] of all frames, videos one after the other.
"""
