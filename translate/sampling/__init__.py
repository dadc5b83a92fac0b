"""Images drawn from noise by a trained generator: `translate sample`, and what scores need of it. Who calls whom:

    sampler        a run or release as something to draw with: sample `number` of a seed is always the same image
    latents        ways through the space of latents: between two of them, and sums of them
    nearest        the real image that is most like a drawn one: is it learnt by heart?
    sheets         what a training from noise shows of itself, again and again
    planning       `translate sample`: which images, and what each is drawn from and under
    output_folder  the folder that holds one draw, and the folders of its classes
    drawing        its images, its sheet
"""
